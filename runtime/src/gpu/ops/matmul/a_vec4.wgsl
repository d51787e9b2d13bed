// Rows of a whose length is a multiple of four.
// Outside the matrix the loaders give zeros without a branch: they are inlined many times, and some compilers choke on
// early returns inside loops. A clamped address is always valid, since no buffer is empty.
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;

fn load_a(offset: u32, row: u32, k: u32) -> vec4<f32> {
    let inside = (row < p.m) & (k < p.k);
    let four = a[select(0u, (offset + row * p.a_row + k) / 4u, inside)];
    return select(vec4<f32>(), four, inside);
}
