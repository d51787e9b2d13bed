// Numbers kept as words, as f32: which word holds number i, and what it says.
fn stored_word(i: u32) -> u32 {
    return i;
}

fn stored(word: u32, i: u32) -> f32 {
    return bitcast<f32>(word);
}
