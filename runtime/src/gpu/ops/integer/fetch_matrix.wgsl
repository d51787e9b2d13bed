// Four bytes of a matrix's row from k on.
fn fetch_word(row: u32, k: u32) -> u32 {
    let start = (row / p.rows_per_batch) * p.batch_stride + (row % p.rows_per_batch) * p.row_stride;
    let first = start + k * p.k_stride;
    if (p.k_stride == 1u && (first & 3u) == 0u && k + 3u < p.k) {
        return src[first / 4u] ^ select(0u, 0x80808080u, p.shift != 0u);
    }
    var word = 0u;
    for (var i = 0u; i < 4u; i++) {
        if (k + i < p.k) {
            word |= src_byte(first + i * p.k_stride) << (i * 8u);
        }
    }
    return word;
}
