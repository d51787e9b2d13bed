// saturate(round(x / scale) + zero), four bytes an invocation.
struct Params {
    elements: u32,
    flags: u32,
    // Of the dimension that scales run along: elements behind it, its size, and elements that share a scale. Then how far
    // a block, a step before that dimension and one behind it move in the scales; 0 where they do not differ.
    inner: u32,
    size: u32,
    block: u32,
    block_stride: u32,
    outer_stride: u32,
    inner_stride: u32,
}

const SIGNED: u32 = 1u;
const ZEROS: u32 = 2u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> zero: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let word_at = linear_id(group, groups, 64u, lane);
    if (word_at >= (p.elements + 3u) / 4u) {
        return;
    }
    let is_signed = (p.flags & SIGNED) != 0u;
    var word = 0u;
    for (var i = 0u; i < 4u; i++) {
        let at = word_at * 4u + i;
        if (at < p.elements) {
            let s = scale_index(at);
            var z = 0.0;
            if ((p.flags & ZEROS) != 0u) {
                z = f32(widen(zero[s / 4u], s, is_signed));
            }
            let low = select(0.0, -128.0, is_signed);
            let value = i32(clamp(round_divide(x[at], scale[s]) + z, low, low + 255.0));
            word |= (bitcast<u32>(value) & 0xffu) << (i * 8u);
        }
    }
    y[word_at] = word;
}
