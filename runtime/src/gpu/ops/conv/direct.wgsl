// A convolution with few channels a group, one invocation an output.
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
    activation: u32,
    activation_a: f32,
    activation_b: f32,
}

const BIAS: u32 = 1u;
const RESIDUAL: u32 = 4u;
// A Relu follows the residual.
const RELU: u32 = 16u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

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
    // Wraps below zero in the leading padding, so that one comparison checks both ends.
    let corner = out * p.stride - p.pad;
    var sum = 0.0;
    for (var c = 0u; c < p.group_in; c++) {
        let x_plane = (first * p.group_in + c) * p.input.x * p.input.y;
        let w_plane = (channel * p.group_in + c) * taps;
        for (var i = 0u; i < p.kernel.x; i++) {
            let row = corner.x + i * p.dilation.x;
            if (row < p.input.x) {
                for (var j = 0u; j < p.kernel.y; j++) {
                    let col = corner.y + j * p.dilation.y;
                    if (col < p.input.y) {
                        let tap = w_plane + i * p.kernel.y + j;
                        sum += x[x_plane + row * p.input.y + col] * stored(w[stored_word(tap)], tap);
                    }
                }
            }
        }
    }
    if ((p.flags & BIAS) != 0u) {
        sum += bias[channel];
    }
    sum = unary(p.activation, sum, p.activation_a, p.activation_b);
    if ((p.flags & RESIDUAL) != 0u) {
        sum += residual[at];
    }
    if ((p.flags & RELU) != 0u && sum < 0.0) {
        sum = 0.0;
    }
    y[at] = sum;
}
