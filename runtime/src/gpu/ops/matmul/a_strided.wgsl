// Any a: odd lengths, transposed.
// Outside the matrix the loaders give zeros without a branch: they are inlined many times, and some compilers choke on
// early returns inside loops. A clamped address is always valid, since no buffer is empty.
@group(0) @binding(1) var<storage, read> a: array<f32>;

fn a_one(offset: u32, row: u32, k: u32) -> f32 {
    let inside = (row < p.m) & (k < p.k);
    return select(0.0, a[select(0u, offset + row * p.a_row + k * p.a_col, inside)], inside);
}

fn load_a(offset: u32, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        a_one(offset, row, k),
        a_one(offset, row, k + 1u),
        a_one(offset, row, k + 2u),
        a_one(offset, row, k + 3u),
    );
}
