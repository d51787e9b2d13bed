// Up to four rows and 16 columns a workgroup: sixteen lanes a column split k among them.

// [column][lane]: the lanes' partial sums of the four rows.
var<workgroup> sums: array<vec4<i32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let z = p.first_batch + group.z;
    let rows = batch_rows(z);
    let col0 = group.x * 16u;
    let col = col0 + lane / 16u;
    var sum = vec4<i32>();
    if (col < p.n) {
        for (var quad = lane % 16u; quad < p.quads; quad += 16u) {
            let w = b[(rows.y + col) * p.quads + quad];
            sum.x += dot16(a[rows.x * p.quads + quad], w);
            if (p.m > 1u) {
                sum.y += dot16(a[(rows.x + 1u) * p.quads + quad], w);
            }
            if (p.m > 2u) {
                sum.z += dot16(a[(rows.x + 2u) * p.quads + quad], w);
            }
            if (p.m > 3u) {
                sum.w += dot16(a[(rows.x + 3u) * p.quads + quad], w);
            }
        }
    }
    sums[lane] = sum;
    workgroupBarrier();
    if (lane < 64u) {
        let row = lane / 16u;
        let column = lane % 16u;
        var total = 0;
        for (var i = 0u; i < 16u; i++) {
            total += sums[column * 16u + i][row];
        }
        store(total, row, col0 + column, z, rows);
    }
}
