// y = condition ? a : b on 32-bit words of any type, any broadcasting.

struct Params {
    len: u32,
    rank: u32,
    pad0: u32,
    pad1: u32,
    dims: array<vec4<u32>, 2>,
    c_strides: array<vec4<u32>, 2>,
    a_strides: array<vec4<u32>, 2>,
    b_strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> condition: array<u32>;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_id(group, groups, 256u, local);
    if (i >= p.len) {
        return;
    }
    var rest = i;
    var ic = 0u;
    var ia = 0u;
    var ib = 0u;
    for (var k = p.rank; k > 0u; k--) {
        let d = k - 1u;
        let n = p.dims[d / 4u][d % 4u];
        let at = rest % n;
        rest /= n;
        ic += at * p.c_strides[d / 4u][d % 4u];
        ia += at * p.a_strides[d / 4u][d % 4u];
        ib += at * p.b_strides[d / 4u][d % 4u];
    }
    if (condition[ic] != 0u) {
        y[i] = a[ia];
    } else {
        y[i] = b[ib];
    }
}
