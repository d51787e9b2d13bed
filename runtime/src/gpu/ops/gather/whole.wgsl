fn word(w: u32, per_word: u32) -> T {
    let s = source_of(w);
    if (s == 0xffffffffu) {
        return T();
    }
    return x[s];
}
