// The exact accumulators of an integer convolution with few channels a group, one invocation an output.
struct Params {
    elements: u32,
    // Output channels, output channels a group, input channels a group.
    channels: u32,
    group_out: u32,
    group_in: u32,
    input: vec2<u32>,
    output: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    dilation: vec2<u32>,
    pad: vec2<u32>,
    flags: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

const X_SIGNED: u32 = 1u;
const W_SIGNED: u32 = 2u;
// The weights' zero points are per output channel.
const W_ZEROS: u32 = 4u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read> x_zero: array<u32>;
@group(0) @binding(4) var<storage, read> w_zero: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<i32>;

fn widen(word: u32, i: u32, is_signed: bool) -> i32 {
    let first = (i % 4u) * 8u;
    return select(i32(extractBits(word, first, 8u)), extractBits(i32(word), first, 8u), is_signed);
}

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
    let out = vec2<u32>((at / p.output.y) % p.output.x, at % p.output.y);
    let plane = at / (p.output.x * p.output.y);
    let channel = plane % p.channels;
    let image = plane / p.channels;
    let first = image * (p.channels / p.group_out) + channel / p.group_out;
    let taps = p.kernel.x * p.kernel.y;
    let x_signed = (p.flags & X_SIGNED) != 0u;
    let w_signed = (p.flags & W_SIGNED) != 0u;
    let zero_at = select(0u, channel, (p.flags & W_ZEROS) != 0u);
    let zx = widen(x_zero[0], 0u, x_signed);
    let zw = widen(w_zero[zero_at / 4u], zero_at, w_signed);
    // Wraps below zero in the leading padding, so that one comparison checks both ends.
    let corner = out * p.stride - p.pad;
    var sum = 0;
    for (var c = 0u; c < p.group_in; c++) {
        let x_plane = (first * p.group_in + c) * p.input.x * p.input.y;
        let w_plane = (channel * p.group_in + c) * taps;
        for (var i = 0u; i < p.kernel.x; i++) {
            let row = corner.x + i * p.dilation.x;
            if (row < p.input.x) {
                for (var j = 0u; j < p.kernel.y; j++) {
                    let col = corner.y + j * p.dilation.y;
                    // Padding stands for the zero point and adds nothing.
                    if (col < p.input.y) {
                        let xi = x_plane + row * p.input.y + col;
                        let wi = w_plane + i * p.kernel.y + j;
                        sum += (widen(x[xi / 4u], xi, x_signed) - zx) * (widen(w[wi / 4u], wi, w_signed) - zw);
                    }
                }
            }
        }
    }
    y[at] = sum;
}
