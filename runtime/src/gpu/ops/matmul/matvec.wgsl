// Up to four rows and 64 columns a workgroup: sixteen lanes a quad of columns split k among them.
const ROWS: u32 = 4u;

// [row][lane]: the lanes' partial sums.
var<workgroup> sums: array<vec4<f32>, 1024>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let z = p.first_batch + group.z;
    let offsets = batch_offsets(z);
    let col0 = group.x * 64u;
    let along_k = (p.flags & K_CONTIGUOUS) != 0u;
    let quad = select(lane % 16u, lane / 16u, along_k);
    let slice = select(lane / 16u, lane % 16u, along_k);
    let col = col0 + quad * 4u;

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var k = slice * 4u; k < p.k; k += 64u) {
        let b0 = load_b(offsets.y, k, col);
        let b1 = load_b(offsets.y, k + 1u, col);
        let b2 = load_b(offsets.y, k + 2u, col);
        let b3 = load_b(offsets.y, k + 3u, col);
        let a0 = load_a(offsets.x, 0u, k);
        sum0 += a0.x * b0 + a0.y * b1 + a0.z * b2 + a0.w * b3;
        if (p.m > 1u) {
            let a1 = load_a(offsets.x, 1u, k);
            sum1 += a1.x * b0 + a1.y * b1 + a1.z * b2 + a1.w * b3;
        }
        if (p.m > 2u) {
            let a2 = load_a(offsets.x, 2u, k);
            sum2 += a2.x * b0 + a2.y * b1 + a2.z * b2 + a2.w * b3;
        }
        if (p.m > 3u) {
            let a3 = load_a(offsets.x, 3u, k);
            sum3 += a3.x * b0 + a3.y * b1 + a3.z * b2 + a3.w * b3;
        }
    }

    let at = quad * 16u + slice;
    sums[at] = sum0;
    sums[256u + at] = sum1;
    sums[512u + at] = sum2;
    sums[768u + at] = sum3;
    workgroupBarrier();
    if (lane < 16u * ROWS) {
        let row = lane / 16u;
        let first = row * 256u + (lane % 16u) * 16u;
        var sum = vec4<f32>();
        for (var i = 0u; i < 16u; i++) {
            sum += sums[first + i];
        }
        let out = col0 + (lane % 16u) * 4u;
        // One call in a loop, as in tile.wgsl.
        for (var i = 0u; i < 4u; i++) {
            store(sum[i], row, out + i, z);
        }
    }
}
