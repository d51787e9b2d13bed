// Elements of packed words. `i` is the element's index in its tensor; the caller loads word i / 4 or i / 2.

fn load_u8(word: u32, i: u32) -> u32 {
    return (word >> ((i & 3u) * 8u)) & 0xffu;
}

// Shifting left first brings the sign to the top bit, from where the arithmetic shift right spreads it.
fn load_i8(word: u32, i: u32) -> i32 {
    return bitcast<i32>(word << (24u - (i & 3u) * 8u)) >> 24u;
}
