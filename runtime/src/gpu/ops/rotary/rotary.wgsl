// Rotary position embedding: one element an invocation. Element d of head h at position s of batch b lies at
// b * batch_stride + h * head_stride + s * seq_stride + d.

struct Params {
    len: u32,
    seq: u32,
    heads: u32,
    dim: u32,
    rotary: u32,
    batch_stride: u32,
    head_stride: u32,
    seq_stride: u32,
    positions: u32,
    interleaved: u32,
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
// One offset, or one position for each token.
@group(0) @binding(2) var<storage, read> position_ids: array<i32>;
@group(0) @binding(3) var<storage, read> cosines: array<f32>;
@group(0) @binding(4) var<storage, read> sines: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

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
    let d = i % p.dim;
    let s = i / p.dim % p.seq;
    let h = i / (p.dim * p.seq) % p.heads;
    let b = i / (p.dim * p.seq * p.heads);
    let base = b * p.batch_stride + h * p.head_stride + s * p.seq_stride;
    if (d >= p.rotary) {
        y[base + d] = x[base + d];
        return;
    }
    var position = u32(position_ids[0]) + s;
    if (p.positions != 1u) {
        position = u32(position_ids[b * p.seq + s]);
    }
    let half = p.rotary / 2u;
    var pair = d % half;
    var other = (d + half) % p.rotary;
    var first = d < half;
    if (p.interleaved != 0u) {
        pair = d / 2u;
        other = d ^ 1u;
        first = (d & 1u) == 0u;
    }
    let angle = position * half + pair;
    let turned = x[base + other] * sines[angle];
    y[base + d] = x[base + d] * cosines[angle] + select(turned, -turned, first);
}
