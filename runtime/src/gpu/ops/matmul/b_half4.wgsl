// Half-precision rows of b whose length is a multiple of four.
@group(0) @binding(2) var<storage, read> b: array<vec2<u32>>;

fn load_b(offset: u32, k: u32, col: u32) -> vec4<f32> {
    if (k < p.k && col < p.n) {
        let four = b[(offset + k * p.b_row + col) / 4u];
        return vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
    }
    return vec4<f32>();
}
