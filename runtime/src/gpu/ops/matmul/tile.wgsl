// 64 x 64 outputs a workgroup, 4 x 4 an invocation, 16 deep in k.
const DEPTH: u32 = 16u;

// [64 rows][4 quads along k] and [16 k][16 quads along the columns].
var<workgroup> a_tile: array<vec4<f32>, 256>;
var<workgroup> b_tile: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let z = p.first_batch + group.z;
    let offsets = batch_offsets(z);
    let row0 = group.y * 64u;
    let col0 = group.x * 64u;
    let tx = lane % 16u;
    let ty = lane / 16u;
    // Which element of b's tile this lane brings: neighbours along the dimension that is contiguous in memory.
    let along_k = (p.flags & K_CONTIGUOUS) != 0u;
    let b_k = select(ty, tx, along_k);
    let b_quad = select(tx, ty, along_k);

    var sum0 = vec4<f32>();
    var sum1 = vec4<f32>();
    var sum2 = vec4<f32>();
    var sum3 = vec4<f32>();
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        a_tile[lane] = load_a(offsets.x, row0 + lane / 4u, k0 + (lane % 4u) * 4u);
        b_tile[b_k * 16u + b_quad] = load_b(offsets.y, k0 + b_k, col0 + b_quad * 4u);
        workgroupBarrier();
        for (var quad = 0u; quad < DEPTH / 4u; quad++) {
            let b0 = b_tile[quad * 64u + tx];
            let b1 = b_tile[quad * 64u + 16u + tx];
            let b2 = b_tile[quad * 64u + 32u + tx];
            let b3 = b_tile[quad * 64u + 48u + tx];
            let a0 = a_tile[ty * 16u + quad];
            let a1 = a_tile[ty * 16u + 4u + quad];
            let a2 = a_tile[ty * 16u + 8u + quad];
            let a3 = a_tile[ty * 16u + 12u + quad];
            sum0 += a0.x * b0 + a0.y * b1 + a0.z * b2 + a0.w * b3;
            sum1 += a1.x * b0 + a1.y * b1 + a1.z * b2 + a1.w * b3;
            sum2 += a2.x * b0 + a2.y * b1 + a2.z * b2 + a2.w * b3;
            sum3 += a3.x * b0 + a3.y * b1 + a3.z * b2 + a3.w * b3;
        }
        workgroupBarrier();
    }

    // One call of the epilogue in a loop: compilers inline it, and sixteen copies of every activation take some of them
    // seconds.
    var sums = array<vec4<f32>, 4>(sum0, sum1, sum2, sum3);
    for (var i = 0u; i < 16u; i++) {
        store(sums[i / 4u][i % 4u], row0 + ty * 4u + i / 4u, col0 + tx * 4u + i % 4u, z);
    }
}
