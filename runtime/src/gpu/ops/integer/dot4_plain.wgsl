// For compilers without dot4I8Packed.
fn bytes(x: u32) -> vec4<i32> {
    let s = bitcast<i32>(x);
    return vec4<i32>(extractBits(s, 0u, 8u), extractBits(s, 8u, 8u), extractBits(s, 16u, 8u), s >> 24u);
}

fn dot4(x: u32, w: u32) -> i32 {
    return dot(bytes(x), bytes(w));
}
