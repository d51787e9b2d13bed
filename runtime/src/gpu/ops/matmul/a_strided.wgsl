// Any a: odd lengths, transposed.
@group(0) @binding(1) var<storage, read> a: array<f32>;

fn a_one(offset: u32, row: u32, k: u32) -> f32 {
    if (row < p.m && k < p.k) {
        return a[offset + row * p.a_row + k * p.a_col];
    }
    return 0.0;
}

fn load_a(offset: u32, row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(
        a_one(offset, row, k),
        a_one(offset, row, k + 1u),
        a_one(offset, row, k + 2u),
        a_one(offset, row, k + 3u),
    );
}
