
// Stand-ins that are never reached: the builtins do not compile on every device.
fn load_f16(word: u32, i: u32) -> f32 {
    return 0.0;
}

fn pack_f16(a: f32, b: f32) -> u32 {
    return 0u;
}
