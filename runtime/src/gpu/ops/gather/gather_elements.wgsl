// y[i] = x[i with its coordinate on one axis replaced by indices[i]]; x may be larger than y on the other axes.

struct Params {
    len: u32,
    rank: u32,
    axis: u32,
    size: u32,
    dims: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

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
    var at = indices[i];
    if (at < 0) {
        at += i32(p.size);
    }
    let inside = at >= 0 && at < i32(p.size);
    var rest = i;
    var source = 0u;
    for (var k = p.rank; k > 0u; k--) {
        let d = k - 1u;
        let n = p.dims[d / 4u][d % 4u];
        let own = select(rest % n, u32(max(at, 0)), d == p.axis);
        rest /= n;
        source += own * p.strides[d / 4u][d % 4u];
    }
    if (inside) {
        y[i] = x[source];
    } else {
        y[i] = 0u;
    }
}
