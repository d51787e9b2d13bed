// Functions of one word: i32 arithmetic, bool, and tests on the bits of f32. Drivers may assume that no number is NaN,
// so x != x is no test; the bits are.

struct Params {
    vectors: u32,
    a: f32,
    b: f32,
    pad: u32,
}

override OP: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_id(group, groups, 256u, local);
    if (i >= p.vectors) {
        return;
    }
    let v = x[i];
    let s = bitcast<vec4<i32>>(v);
    switch OP {
        case 1u: { y[i] = bitcast<vec4<u32>>(abs(s)); }
        case 2u: { y[i] = bitcast<vec4<u32>>(-s); }
        case 16u: { y[i] = bitcast<vec4<u32>>(sign(s)); }
        case 100u: { y[i] = vec4<u32>(v == vec4<u32>()); }
        case 101u: { y[i] = vec4<u32>((v & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u)); }
        default: { y[i] = v; }
    }
}
