// Rows of a whose length is a multiple of four.
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;

fn load_a(offset: u32, row: u32, k: u32) -> vec4<f32> {
    if (row < p.m && k < p.k) {
        return a[(offset + row * p.a_row + k) / 4u];
    }
    return vec4<f32>();
}
