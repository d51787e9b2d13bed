// Shared by every product of floats: tile.wgsl and matvec.wgsl with one loader for each operand.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    flags: u32,
    // Strides in elements; the column stride of a vec4 loader is 1 and not read.
    a_row: u32,
    a_col: u32,
    b_row: u32,
    b_col: u32,
    // Batch dimensions, outermost first, and how far each moves the operands.
    batch: vec4<u32>,
    a_batch: vec4<u32>,
    b_batch: vec4<u32>,
    alpha: f32,
    activation: u32,
    activation_a: f32,
    activation_b: f32,
    // First batch of this dispatch, batches that share one bias, and the block of quantized weights.
    first_batch: u32,
    groups: u32,
    block: u32,
    bits: u32,
    // The window of a convolution: input height and width, kernel, strides, dilations, leading pads, output width.
    input: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    dilation: vec2<u32>,
    pad: vec2<u32>,
    out_width: u32,
    unused: u32,
}

const BIAS: u32 = 1u;
// The bias has one element a row, not a column (convolutions, whose rows are channels).
const BIAS_ROW: u32 = 2u;
const RESIDUAL: u32 = 4u;
// Neighbours in k lie side by side in b, so neighbouring lanes load neighbours in k.
const K_CONTIGUOUS: u32 = 8u;
// A Relu follows the residual.
const RELU: u32 = 16u;
const ZEROS_PACKED: u32 = 32u;
const ZEROS_FLOAT: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;

// Where the operands of batch z start.
fn batch_offsets(z: u32) -> vec2<u32> {
    let d3 = z % p.batch.w;
    let r3 = z / p.batch.w;
    let d2 = r3 % p.batch.z;
    let r2 = r3 / p.batch.z;
    let at = vec4<u32>(r2 / p.batch.y, r2 % p.batch.y, d2, d3);
    return vec2<u32>(dot(at, p.a_batch), dot(at, p.b_batch));
}
