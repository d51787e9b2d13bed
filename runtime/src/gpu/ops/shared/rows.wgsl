// Sums and maxima over the lanes that share a row: 256 invocations serve 256 / LANES rows. In workgroup memory, so that
// it runs without subgroups. All invocations of the workgroup must call these together.

override LANES: u32 = 256u;

var<workgroup> row_scratch: array<f32, 256>;

fn row_sum(local: u32, value: f32) -> f32 {
    // Others may still read the last result.
    workgroupBarrier();
    row_scratch[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if ((local & (LANES - 1u)) < step) {
            row_scratch[local] += row_scratch[local + step];
        }
        workgroupBarrier();
    }
    return row_scratch[local & ~(LANES - 1u)];
}

fn row_max(local: u32, value: f32) -> f32 {
    workgroupBarrier();
    row_scratch[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if ((local & (LANES - 1u)) < step) {
            row_scratch[local] = max(row_scratch[local], row_scratch[local + step]);
        }
        workgroupBarrier();
    }
    return row_scratch[local & ~(LANES - 1u)];
}
