// (x - zero) * scale, one invocation an element.
struct Params {
    elements: u32,
    flags: u32,
    // As in quantize.wgsl.
    inner: u32,
    size: u32,
    block: u32,
    block_stride: u32,
    outer_stride: u32,
    inner_stride: u32,
}

const SIGNED: u32 = 1u;
const ZEROS: u32 = 2u;
// x and the zero points are 32-bit words, not bytes.
const WORDS: u32 = 4u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> zero: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

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
    let s = scale_index(at);
    let is_signed = (p.flags & SIGNED) != 0u;
    let in_words = (p.flags & WORDS) != 0u;
    var value = 0;
    var z = 0;
    if (in_words) {
        value = bitcast<i32>(x[at]);
    } else {
        value = widen(x[at / 4u], at, is_signed);
    }
    if ((p.flags & ZEROS) != 0u) {
        if (in_words) {
            z = bitcast<i32>(zero[s]);
        } else {
            z = widen(zero[s / 4u], s, is_signed);
        }
    }
    y[at] = f32(value - z) * scale[s];
}
