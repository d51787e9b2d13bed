// Four bytes of an im2col row from k on. Rows run over (image, group, pixel), k over (channel, kernel row, kernel
// column); the padding holds the zero point, which the product then takes away again.
fn fetch_word(row: u32, k: u32) -> u32 {
    let pixel = row % p.rows_per_batch;
    // Images and the groups of their channels lie one behind the other, so their joint number finds the planes.
    let first = (row / p.rows_per_batch) * p.batch_stride;
    let out = vec2<u32>(pixel / p.out_width, pixel % p.out_width);
    let taps = p.kernel.x * p.kernel.y;
    let padding = bitcast<u32>(zero_point(row)) & 0xffu;
    var word = 0u;
    for (var i = 0u; i < 4u; i++) {
        let at_k = k + i;
        if (at_k < p.k) {
            let tap = vec2<u32>((at_k % taps) / p.kernel.y, at_k % p.kernel.y);
            // Wraps below zero in the leading padding, so that one comparison checks both ends.
            let at = out * p.stride + tap * p.dilation - p.pad;
            var value = padding;
            if (at.x < p.input.x && at.y < p.input.y) {
                let plane = first + (at_k / taps) * p.input.x * p.input.y;
                value = src_byte(plane + at.x * p.input.y + at.y);
            }
            word |= value << (i * 8u);
        }
    }
    return word;
}
