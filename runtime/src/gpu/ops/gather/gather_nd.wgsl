// Each tuple of `depth` indices selects a slice of `slice` words; `per_batch` tuples belong to one batch of `batch` words.

struct Params {
    len: u32,
    slice: u32,
    depth: u32,
    per_batch: u32,
    batch: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
    sizes: array<vec4<u32>, 2>,
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
    let tuple = i / p.slice;
    var source = tuple / p.per_batch * p.batch + i % p.slice;
    var inside = true;
    for (var d = 0u; d < p.depth; d++) {
        let n = i32(p.sizes[d / 4u][d % 4u]);
        var at = indices[tuple * p.depth + d];
        if (at < 0) {
            at += n;
        }
        inside = inside && at >= 0 && at < n;
        source += u32(clamp(at, 0, n - 1)) * p.strides[d / 4u][d % 4u];
    }
    if (inside) {
        y[i] = x[source];
    } else {
        y[i] = 0u;
    }
}
