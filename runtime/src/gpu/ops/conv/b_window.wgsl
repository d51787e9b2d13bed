// The columns of an implicit im2col matrix: k runs over (channel, kernel row, kernel column), columns over pixels.
@group(0) @binding(2) var<storage, read> b: array<f32>;

// Zero outside the input without a branch, as the loaders of matmul.
fn pixel(plane: u32, tap: vec2<u32>, k: u32, col: u32) -> f32 {
    let out = vec2<u32>(col / p.out_width, col % p.out_width);
    // Wraps below zero in the leading padding, so that one comparison checks both ends.
    let at = out * p.stride + tap * p.dilation - p.pad;
    let inside = (k < p.k) & (col < p.n) & (at.x < p.input.x) & (at.y < p.input.y);
    return select(0.0, b[select(0u, plane + at.x * p.input.y + at.y, inside)], inside);
}

fn load_b(offset: u32, k: u32, col: u32) -> vec4<f32> {
    let taps = p.kernel.x * p.kernel.y;
    let plane = offset + (k / taps) * p.input.x * p.input.y;
    let tap = vec2<u32>((k % taps) / p.kernel.y, k % p.kernel.y);
    return vec4<f32>(
        pixel(plane, tap, k, col),
        pixel(plane, tap, k, col + 1u),
        pixel(plane, tap, k, col + 2u),
        pixel(plane, tap, k, col + 3u),
    );
}
