// Moves elements: y[out_offset + sum i_d * out_strides_d] = x[in_offset + sum i_d * in_strides_d]. T is one word or four.
// Input strides are signed: a slice may run backwards; where a dimension repeats they are 0.

struct Params {
    len: u32,
    rank: u32,
    in_offset: i32,
    out_offset: u32,
    dims: array<vec4<u32>, 2>,
    in_strides: array<vec4<i32>, 2>,
    out_strides: array<vec4<u32>, 2>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;

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
    var source = p.in_offset;
    var target_ = p.out_offset;
    for (var k = p.rank; k > 0u; k--) {
        let d = k - 1u;
        let n = p.dims[d / 4u][d % 4u];
        let at = rest % n;
        rest /= n;
        source += i32(at) * p.in_strides[d / 4u][d % 4u];
        target_ += at * p.out_strides[d / 4u][d % 4u];
    }
    y[target_] = x[u32(source)];
}
