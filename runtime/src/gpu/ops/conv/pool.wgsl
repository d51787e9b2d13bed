// The largest or the mean of a window, one invocation an output.
struct Params {
    elements: u32,
    flags: u32,
    input: vec2<u32>,
    output: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    dilation: vec2<u32>,
    pad: vec2<u32>,
    // Input size with both paddings: windows that reach further (rounded-up outputs) do not count what lies behind.
    padded: vec2<u32>,
}

const MAX: u32 = 1u;
const COUNT_PAD: u32 = 2u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

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
    let plane = at / (p.output.x * p.output.y) * p.input.x * p.input.y;
    var largest = -3.4028234e38;
    var sum = 0.0;
    var inside = 0u;
    var padded = 0u;
    for (var i = 0u; i < p.kernel.x; i++) {
        let padded_row = out.x * p.stride.x + i * p.dilation.x;
        for (var j = 0u; j < p.kernel.y; j++) {
            let padded_col = out.y * p.stride.y + j * p.dilation.y;
            // Wraps below zero in the leading padding, so that one comparison checks both ends.
            let row = padded_row - p.pad.x;
            let col = padded_col - p.pad.y;
            if (row < p.input.x && col < p.input.y) {
                let value = x[plane + row * p.input.y + col];
                // The first element as it is, so that a window of minus infinities stays one.
                largest = select(max(largest, value), value, inside == 0u);
                sum += value;
                inside++;
            }
            if (padded_row < p.padded.x && padded_col < p.padded.y) {
                padded++;
            }
        }
    }
    if ((p.flags & MAX) != 0u) {
        y[at] = largest;
        return;
    }
    let count = select(inside, padded, (p.flags & COUNT_PAD) != 0u);
    y[at] = sum / f32(max(count, 1u));
}
