// Softmax of rows: three passes over the input, LANES invocations a row. Element k of row r lies at
// r / inner * n * inner + k * inner + r % inner, so any axis is a row.

struct Params {
    rows: u32,
    n: u32,
    inner: u32,
    // What a row that is minus infinity throughout becomes: zero or NaN.
    masked: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = linear_group(group, groups) * (256u / LANES) + local / LANES;
    let lane = local & (LANES - 1u);
    // Rows behind the last take part in the barriers with nothing to do.
    let n = select(0u, p.n, row < p.rows);
    let base = row / p.inner * p.n * p.inner + row % p.inner;

    var top = -3.4028234e38;
    for (var k = lane; k < n; k += LANES) {
        top = max(top, x[base + k * p.inner]);
    }
    top = row_max(local, top);

    var sum = 0.0;
    for (var k = lane; k < n; k += LANES) {
        sum += exp(x[base + k * p.inner] - top);
    }
    sum = row_sum(local, sum);

    // Only a row without a finite element sums to zero: otherwise the largest adds 1. Testing for infinity instead would
    // trust drivers that may assume there is none.
    let masked = sum == 0.0;
    let factor = 1.0 / sum;
    for (var k = lane; k < n; k += LANES) {
        let at = base + k * p.inner;
        if (masked) {
            y[at] = p.masked;
        } else {
            y[at] = exp(x[at] - top) * factor;
        }
    }
}
