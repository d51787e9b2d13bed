// Any half-precision b, two in a word.
// Outside the matrix the loaders give zeros without a branch: they are inlined many times, and some compilers choke on
// early returns inside loops. A clamped address is always valid, since no buffer is empty.
@group(0) @binding(2) var<storage, read> b: array<u32>;

fn b_one(offset: u32, k: u32, col: u32) -> f32 {
    let inside = (k < p.k) & (col < p.n);
    let at = select(0u, offset + k * p.b_row + col * p.b_col, inside);
    let pair = unpack2x16float(b[at / 2u]);
    return select(0.0, select(pair.x, pair.y, (at & 1u) == 1u), inside);
}

fn load_b(offset: u32, k: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(
        b_one(offset, k, col),
        b_one(offset, k, col + 1u),
        b_one(offset, k, col + 2u),
        b_one(offset, k, col + 3u),
    );
}
