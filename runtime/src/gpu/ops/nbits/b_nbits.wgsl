// Weights of 4 or 8 bits in blocks along k, widened as they are read.
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> zeros: array<u32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

// Scale and zero point of a column's block.
fn block_scale(col: u32, index: u32) -> vec2<f32> {
    let blocks = (p.k + p.block - 1u) / p.block;
    let at = col * blocks + index;
    var zero = f32(1u << (p.bits - 1u));
    if ((p.flags & ZEROS_PACKED) != 0u) {
        let row_bytes = (blocks * p.bits + 7u) / 8u;
        let bit = col * row_bytes * 8u + index * p.bits;
        zero = f32(extractBits(zeros[bit / 32u], bit % 32u, p.bits));
    } else if ((p.flags & ZEROS_FLOAT) != 0u) {
        zero = stored(zeros[stored_word(at)], at);
    }
    return vec2<f32>(stored(scales[stored_word(at)], at), zero);
}

fn row_words() -> u32 {
    return (p.k + p.block - 1u) / p.block * p.block * p.bits / 32u;
}

// Zero outside the matrix without a return before the end, as the loaders of matmul.
fn b_one(k: u32, col: u32) -> f32 {
    let inside = (k < p.k) & (col < p.n);
    let at = vec2<u32>(select(0u, k, inside), select(0u, col, inside));
    let bit = at.x * p.bits;
    let q = extractBits(b[at.y * row_words() + bit / 32u], bit % 32u, p.bits);
    let s = block_scale(at.y, at.x / p.block);
    return select(0.0, (f32(q) - s.y) * s.x, inside);
}

fn load_b(offset: u32, k: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(b_one(k, col), b_one(k, col + 1u), b_one(k, col + 2u), b_one(k, col + 3u));
}
