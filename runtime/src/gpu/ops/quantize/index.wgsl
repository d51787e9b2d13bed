// Which scale an element has: one for all, one for each position along a dimension, or one for each block along it.
fn scale_index(at: u32) -> u32 {
    let along = at / p.inner % p.size;
    let outer = at / (p.inner * p.size);
    return outer * p.outer_stride + along / p.block * p.block_stride + at % p.inner * p.inner_stride;
}

fn widen(word: u32, i: u32, is_signed: bool) -> i32 {
    let first = (i % 4u) * 8u;
    return select(i32(extractBits(word, first, 8u)), extractBits(i32(word), first, 8u), is_signed);
}
