// The keys or values of the past with the new ones behind them, [batch, heads, past + new, head size]. One invocation an
// element.
struct Params {
    elements: u32,
    heads: u32,
    past: u32,
    total: u32,
    // Of the new ones: batch, head, position, element of the head.
    strides: vec4<u32>,
    head_size: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> past: array<f32>;
@group(0) @binding(2) var<storage, read> fresh: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

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
    let position = at / p.head_size % p.total;
    let plane = at / (p.head_size * p.total);
    if (position < p.past) {
        y[at] = past[(plane * p.past + position) * p.head_size + d];
    } else {
        let source = vec4<u32>(plane / p.heads, plane % p.heads, position - p.past, d);
        y[at] = fresh[dot(source, p.strides)];
    }
}
