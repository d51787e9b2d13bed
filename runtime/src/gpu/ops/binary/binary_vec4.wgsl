// Four results an invocation. Each operand is a scalar, or repeats whole after `period` vectors: the output's own length
// for the same shape, a row's for a bias.

struct Params {
    vectors: u32,
    a_period: u32,
    b_period: u32,
    pad: u32,
}

override A_SCALAR: bool = false;
override B_SCALAR: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<T>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<T>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<R>>;

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
    var u: vec4<T>;
    var v: vec4<T>;
    if (A_SCALAR) { u = vec4<T>(a[0].x); } else { u = a[i % p.a_period]; }
    if (B_SCALAR) { v = vec4<T>(b[0].x); } else { v = b[i % p.b_period]; }
    y[i] = vec4<R>(apply(u.x, v.x), apply(u.y, v.y), apply(u.z, v.z), apply(u.w, v.w));
}
