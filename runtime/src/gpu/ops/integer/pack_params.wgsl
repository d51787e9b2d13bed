struct Params {
    rows: u32,
    k: u32,
    // Quads of words a row takes.
    quads: u32,
    unused: u32,
    // How a matrix's element (batch, row, k) is found, in bytes.
    rows_per_batch: u32,
    batch_stride: u32,
    row_stride: u32,
    k_stride: u32,
    // 128 if the bytes are unsigned, else 0; what is subtracted from them.
    shift: u32,
    zero_mode: u32,
    // The window of a convolution.
    groups: u32,
    out_width: u32,
    input: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    dilation: vec2<u32>,
    pad: vec2<u32>,
    unused2: vec2<u32>,
}

const ZERO_ABSENT: u32 = 0u;
const ZERO_SCALAR: u32 = 1u;
const ZERO_PER_ROW: u32 = 2u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<u32>;
@group(0) @binding(2) var<storage, read> zero: array<u32>;
@group(0) @binding(3) var<storage, read_write> dst: array<u32>;

// Byte i of a word as a signed number, less the shift.
fn signed_byte(word: u32, i: u32) -> i32 {
    let shifted = word ^ select(0u, 0x80808080u, p.shift != 0u);
    return extractBits(i32(shifted), i * 8u, 8u);
}

fn src_byte(at: u32) -> u32 {
    return bitcast<u32>(signed_byte(src[at / 4u], at % 4u)) & 0xffu;
}
