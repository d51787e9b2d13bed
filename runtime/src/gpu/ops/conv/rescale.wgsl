// From accumulators to floats: scales, bias, activation, residual. One invocation an output.
struct Params {
    elements: u32,
    channels: u32,
    pixels: u32,
    flags: u32,
    activation: u32,
    activation_a: f32,
    activation_b: f32,
    unused: u32,
}

const BIAS: u32 = 1u;
const RESIDUAL: u32 = 4u;
const W_SCALES: u32 = 8u;
// A Relu follows the residual.
const RELU: u32 = 16u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sums: array<i32>;
@group(0) @binding(2) var<storage, read> x_scale: array<f32>;
@group(0) @binding(3) var<storage, read> w_scale: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

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
    let channel = at / p.pixels % p.channels;
    let scale = x_scale[0] * w_scale[select(0u, channel, (p.flags & W_SCALES) != 0u)];
    var v = f32(sums[at]) * scale;
    if ((p.flags & BIAS) != 0u) {
        v += bias[channel];
    }
    v = unary(p.activation, v, p.activation_a, p.activation_b);
    if ((p.flags & RESIDUAL) != 0u) {
        v += residual[at];
    }
    if ((p.flags & RELU) != 0u && v < 0.0) {
        v = 0.0;
    }
    y[at] = v;
}
