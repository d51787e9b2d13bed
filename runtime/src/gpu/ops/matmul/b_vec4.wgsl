// Rows of b whose length is a multiple of four.
// Outside the matrix the loaders give zeros without a branch: they are inlined many times, and some compilers choke on
// early returns inside loops. A clamped address is always valid, since no buffer is empty.
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;

fn load_b(offset: u32, k: u32, col: u32) -> vec4<f32> {
    let inside = (k < p.k) & (col < p.n);
    let four = b[select(0u, (offset + k * p.b_row + col) / 4u, inside)];
    return select(vec4<f32>(), four, inside);
}
