// y = f(x) on f32, four elements an invocation. Buffers are padded to 16 bytes, so the last vector may overshoot.

struct Params {
    vectors: u32,
    a: f32,
    b: f32,
    pad: u32,
}

override OP: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

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
    y[i] = vec4<f32>(
        unary(OP, v.x, p.a, p.b),
        unary(OP, v.y, p.a, p.b),
        unary(OP, v.z, p.a, p.b),
        unary(OP, v.w, p.a, p.b),
    );
}
