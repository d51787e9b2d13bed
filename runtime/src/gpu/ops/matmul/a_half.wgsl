// Half-precision a (the weights of a convolution), two in a word.
@group(0) @binding(1) var<storage, read> a: array<u32>;

fn a_one(offset: u32, row: u32, k: u32) -> f32 {
    if (row < p.m && k < p.k) {
        let at = offset + row * p.a_row + k * p.a_col;
        let pair = unpack2x16float(a[at / 2u]);
        return select(pair.x, pair.y, (at & 1u) == 1u);
    }
    return 0.0;
}

fn load_a(offset: u32, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        a_one(offset, row, k),
        a_one(offset, row, k + 1u),
        a_one(offset, row, k + 2u),
        a_one(offset, row, k + 3u),
    );
}
