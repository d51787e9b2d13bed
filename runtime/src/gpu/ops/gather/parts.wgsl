alias T = u32;

fn word(w: u32, per_word: u32) -> u32 {
    if (KIND == 3u) {
        let s = source_of(w);
        if (s == 0xffffffffu) {
            return 0u;
        }
        return bitcast<u32>(load_f16(x[s / 2u], s));
    }
    let bits = 32u / per_word;
    var result = 0u;
    for (var k = 0u; k < per_word; k++) {
        let i = w * per_word + k;
        if (i < p.len) {
            let s = source_of(i);
            if (s != 0xffffffffu) {
                let value = (x[s / per_word] >> ((s % per_word) * bits)) & ((1u << bits) - 1u);
                result |= value << (k * bits);
            }
        }
    }
    return result;
}
