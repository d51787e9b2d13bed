// Brings one operand of an exact product into the form that the product kernels read: a row for each row of a or column
// of b, along k, as signed bytes (unsigned ones less 128), padded with zeros to whole quads of words. Behind the rows lie
// the sums of each row's bytes and then its zero points, both padded to quads.
//
// Which byte stands at (row, k) is the business of `fetch` and `fetch_word`, one file for matrices, one for windows.
var<workgroup> sums: array<i32, 64>;

fn zero_point(row: u32) -> i32 {
    if (p.zero_mode == ZERO_ABSENT) {
        return -i32(p.shift);
    }
    let at = select(0u, row % p.rows_per_batch, p.zero_mode == ZERO_PER_ROW);
    return signed_byte(zero[at / 4u], at % 4u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = linear_group(group, groups);
    let inside = row < p.rows;
    let words = p.quads * 4u;
    var sum = 0;
    if (inside) {
        for (var w = lane; w < words; w += 64u) {
            let word = fetch_word(row, w * 4u);
            dst[row * words + w] = word;
            sum += extractBits(i32(word), 0u, 8u) + extractBits(i32(word), 8u, 8u);
            sum += extractBits(i32(word), 16u, 8u) + extractBits(i32(word), 24u, 8u);
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (inside && lane == 0u) {
        var total = 0;
        for (var i = 0u; i < 64u; i++) {
            total += sums[i];
        }
        let tail = p.rows * words;
        dst[tail + row] = bitcast<u32>(total);
        dst[tail + (p.rows + 3u) / 4u * 4u + row] = bitcast<u32>(zero_point(row));
    }
}
