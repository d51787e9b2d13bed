// 64 x 64 outputs a workgroup, 4 x 4 an invocation, 32 bytes deep in k.

// [2 quads][64 rows]: neighbouring invocations read neighbouring quads.
var<workgroup> a_tile: array<vec4<u32>, 128>;
var<workgroup> b_tile: array<vec4<u32>, 128>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let z = p.first_batch + group.z;
    let rows = batch_rows(z);
    let row0 = group.y * 64u;
    let col0 = group.x * 64u;
    let tx = lane % 16u;
    let ty = lane / 16u;
    // One half of the workgroup brings a's tile, the other b's.
    let slot = lane % 128u;
    let tile_row = slot / 2u;
    let tile_quad = slot % 2u;
    let is_a = lane < 128u;

    var sum0 = vec4<i32>();
    var sum1 = vec4<i32>();
    var sum2 = vec4<i32>();
    var sum3 = vec4<i32>();
    for (var q0 = 0u; q0 < p.quads; q0 += 2u) {
        let quad = q0 + tile_quad;
        if (is_a) {
            var word = vec4<u32>();
            if (row0 + tile_row < p.m && quad < p.quads) {
                word = a[(rows.x + row0 + tile_row) * p.quads + quad];
            }
            a_tile[tile_quad * 64u + tile_row] = word;
        } else {
            var word = vec4<u32>();
            if (col0 + tile_row < p.n && quad < p.quads) {
                word = b[(rows.y + col0 + tile_row) * p.quads + quad];
            }
            b_tile[tile_quad * 64u + tile_row] = word;
        }
        workgroupBarrier();
        for (var quad = 0u; quad < 128u; quad += 64u) {
            let b0 = b_tile[quad + tx];
            let b1 = b_tile[quad + tx + 16u];
            let b2 = b_tile[quad + tx + 32u];
            let b3 = b_tile[quad + tx + 48u];
            let a0 = a_tile[quad + ty];
            let a1 = a_tile[quad + ty + 16u];
            let a2 = a_tile[quad + ty + 32u];
            let a3 = a_tile[quad + ty + 48u];
            sum0 += vec4<i32>(dot16(a0, b0), dot16(a0, b1), dot16(a0, b2), dot16(a0, b3));
            sum1 += vec4<i32>(dot16(a1, b0), dot16(a1, b1), dot16(a1, b2), dot16(a1, b3));
            sum2 += vec4<i32>(dot16(a2, b0), dot16(a2, b1), dot16(a2, b2), dot16(a2, b3));
            sum3 += vec4<i32>(dot16(a3, b0), dot16(a3, b1), dot16(a3, b2), dot16(a3, b3));
        }
        workgroupBarrier();
    }

    // One call of the epilogue in a loop: compilers inline it, and sixteen copies of every activation take some of them
    // seconds.
    var sums = array<vec4<i32>, 4>(sum0, sum1, sum2, sum3);
    for (var i = 0u; i < 16u; i++) {
        store(sums[i / 4u][i % 4u], row0 + ty + i / 4u * 16u, col0 + tx + i % 4u * 16u, z, rows);
    }
}
