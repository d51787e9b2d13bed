// Any half-precision b, two in a word.
@group(0) @binding(2) var<storage, read> b: array<u32>;

fn b_one(offset: u32, k: u32, col: u32) -> f32 {
    if (k < p.k && col < p.n) {
        let at = offset + k * p.b_row + col * p.b_col;
        let pair = unpack2x16float(b[at / 2u]);
        return select(pair.x, pair.y, (at & 1u) == 1u);
    }
    return 0.0;
}

fn load_b(offset: u32, k: u32, col: u32) -> vec4<f32> {
    return vec4<f32>(
        b_one(offset, k, col),
        b_one(offset, k, col + 1u),
        b_one(offset, k, col + 2u),
        b_one(offset, k, col + 3u),
    );
}
