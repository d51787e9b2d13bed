// Half-precision a (the weights of a convolution), two in a word.
// Outside the matrix the loaders give zeros without a branch: they are inlined many times, and some compilers choke on
// early returns inside loops. A clamped address is always valid, since no buffer is empty.
@group(0) @binding(1) var<storage, read> a: array<u32>;

fn a_one(offset: u32, row: u32, k: u32) -> f32 {
    let inside = (row < p.m) & (k < p.k);
    let at = select(0u, offset + row * p.a_row + k * p.a_col, inside);
    let pair = unpack2x16float(a[at / 2u]);
    return select(0.0, select(pair.x, pair.y, (at & 1u) == 1u), inside);
}

fn load_a(offset: u32, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        a_one(offset, row, k),
        a_one(offset, row, k + 1u),
        a_one(offset, row, k + 2u),
        a_one(offset, row, k + 3u),
    );
}
