// A language feature, on by itself where the compiler has it: no directive asks for it.
fn dot4(x: u32, w: u32) -> i32 {
    return dot4I8Packed(x, w);
}
