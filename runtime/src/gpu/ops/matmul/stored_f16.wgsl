// Numbers kept as words, as f16 two to a word: which word holds number i, and what it says.
fn stored_word(i: u32) -> u32 {
    return i / 2u;
}

fn stored(word: u32, i: u32) -> f32 {
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}
