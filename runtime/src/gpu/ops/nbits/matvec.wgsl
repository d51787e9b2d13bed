// Up to four rows and 16 columns a workgroup: sixteen lanes a column split its words among them.

// [column][lane]: the lanes' partial sums of the four rows.
var<workgroup> sums: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let col0 = group.x * 16u;
    let col = col0 + lane / 16u;
    let words = row_words();
    let per_word = 32u / p.bits;
    var sum = vec4<f32>();
    if (col < p.n) {
        for (var w = lane % 16u; w < words; w += 16u) {
            let k = w * per_word;
            let word = b[col * words + w];
            let s = block_scale(col, k / p.block);
            // Past the end of k the loader of a gives zeros.
            for (var i = 0u; i < per_word; i += 4u) {
                let first = i * p.bits;
                let q = vec4<f32>(
                    f32(extractBits(word, first, p.bits)),
                    f32(extractBits(word, first + p.bits, p.bits)),
                    f32(extractBits(word, first + 2u * p.bits, p.bits)),
                    f32(extractBits(word, first + 3u * p.bits, p.bits)),
                );
                let four = (q - s.y) * s.x;
                sum.x += dot(load_a(0u, 0u, k + i), four);
                if (p.m > 1u) {
                    sum.y += dot(load_a(0u, 1u, k + i), four);
                }
                if (p.m > 2u) {
                    sum.z += dot(load_a(0u, 2u, k + i), four);
                }
                if (p.m > 3u) {
                    sum.w += dot(load_a(0u, 3u, k + i), four);
                }
            }
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (lane < 64u) {
        let row = lane / 16u;
        let column = lane % 16u;
        var total = 0.0;
        for (var i = 0u; i < 16u; i++) {
            total += sums[column * 16u + i][row];
        }
        store(total, row, col0 + column, 0u);
    }
}
