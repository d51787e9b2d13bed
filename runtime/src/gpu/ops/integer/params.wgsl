// Shared by the exact products of packed bytes.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    flags: u32,
    // Batch dimensions, outermost first, and how far each moves the operands, in packed rows.
    batch: vec4<u32>,
    a_batch: vec4<u32>,
    b_batch: vec4<u32>,
    // Rows of the packed operands and quads of words in each row.
    a_rows: u32,
    b_rows: u32,
    quads: u32,
    first_batch: u32,
    // Batches that share one bias, and the activation.
    groups: u32,
    activation: u32,
    activation_a: f32,
    activation_b: f32,
}

const BIAS: u32 = 1u;
// Bias and a's scale have one element a row (convolutions, whose rows are channels).
const PER_ROW: u32 = 2u;
const RESIDUAL: u32 = 4u;
// The output is f32, not the accumulators.
const TO_FLOAT: u32 = 8u;
const A_SCALES: u32 = 16u;
const B_SCALES: u32 = 32u;
// A Relu follows the residual.
const RELU: u32 = 64u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> a_scale: array<f32>;
@group(0) @binding(4) var<storage, read> b_scale: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read> residual: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<u32>;

// The first rows of the operands of batch z.
fn batch_rows(z: u32) -> vec2<u32> {
    let d3 = z % p.batch.w;
    let r3 = z / p.batch.w;
    let d2 = r3 % p.batch.z;
    let r2 = r3 / p.batch.z;
    let at = vec4<u32>(r2 / p.batch.y, r2 % p.batch.y, d2, d3);
    return vec2<u32>(dot(at, p.a_batch), dot(at, p.b_batch));
}

// A packed row's sum of bytes and its zero point.
fn a_tail(row: u32) -> vec2<i32> {
    let sums = p.a_rows * p.quads;
    let zeros = sums + (p.a_rows + 3u) / 4u;
    return vec2<i32>(i32(a[sums + row / 4u][row % 4u]), i32(a[zeros + row / 4u][row % 4u]));
}

fn b_tail(row: u32) -> vec2<i32> {
    let sums = p.b_rows * p.quads;
    let zeros = sums + (p.b_rows + 3u) / 4u;
    return vec2<i32>(i32(b[sums + row / 4u][row % 4u]), i32(b[zeros + row / 4u][row % 4u]));
}

// Sixteen products of bytes.
fn dot16(x: vec4<u32>, w: vec4<u32>) -> i32 {
    return dot4(x.x, w.x) + dot4(x.y, w.y) + dot4(x.z, w.z) + dot4(x.w, w.w);
}

// Takes the zero points into account and stores one output, unless it lies outside the matrix:
// sum((a - za)(b - zb)) = sum(a b) - zb sum(a) - za sum(b) + k za zb, each term exact modulo 2^32.
fn store(product: i32, row: u32, col: u32, z: u32, rows: vec2<u32>) {
    if (row >= p.m || col >= p.n) {
        return;
    }
    let ta = a_tail(rows.x + row);
    let tb = b_tail(rows.y + col);
    let exact = product - tb.y * ta.x - ta.y * tb.x + i32(p.k) * ta.y * tb.y;
    let at = (z * p.m + row) * p.n + col;
    if ((p.flags & TO_FLOAT) == 0u) {
        y[at] = bitcast<u32>(exact);
        return;
    }
    let channel = select(col, (z % p.groups) * p.m + row, (p.flags & PER_ROW) != 0u);
    // As ONNX Runtime: the scales are multiplied with each other first.
    let scale = a_scale[select(0u, channel, (p.flags & A_SCALES) != 0u)]
        * b_scale[select(0u, channel, (p.flags & B_SCALES) != 0u)];
    var v = f32(exact) * scale;
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
    y[at] = bitcast<u32>(v);
}
