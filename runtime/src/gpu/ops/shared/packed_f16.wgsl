
fn load_f16(word: u32, i: u32) -> f32 {
    let pair = unpack2x16float(word);
    return select(pair.x, pair.y, (i & 1u) == 1u);
}

fn pack_f16(a: f32, b: f32) -> u32 {
    return pack2x16float(vec2<f32>(a, b));
}
