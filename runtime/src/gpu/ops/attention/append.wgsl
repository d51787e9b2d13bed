// Writes rows of keys or values behind those that a cache [batch, heads, capacity, head size] holds. One invocation an
// element that is written.
struct Params {
    elements: u32,
    heads: u32,
    head_size: u32,
    // Rows to write, the place of the first, and how many there is room for.
    rows: u32,
    first: u32,
    capacity: u32,
    unused0: u32,
    unused1: u32,
    // Of the rows that are read: batch, head, position, element of the head.
    strides: vec4<u32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> fresh: array<f32>;
@group(0) @binding(2) var<storage, read_write> cache: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = linear_id(group, groups, 64u, lane);
    if (at >= p.elements) {
        return;
    }
    let d = at % p.head_size;
    let row = at / p.head_size % p.rows;
    let plane = at / (p.head_size * p.rows);
    let source = vec4<u32>(plane / p.heads, plane % p.heads, row, d);
    cache[(plane * p.capacity + p.first + row) * p.head_size + d] = fresh[dot(source, p.strides)];
}
