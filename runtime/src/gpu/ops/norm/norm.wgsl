// LayerNorm and RMSNorm of rows of n elements, LANES invocations a row.

struct Params {
    rows: u32,
    n: u32,
    epsilon: f32,
    pad: u32,
}

override RMS: bool = false;
override GAMMA: bool = false;
override BETA: bool = false;
override MEAN: bool = false;
override INV_STD: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> mean_out: array<f32>;
@group(0) @binding(6) var<storage, read_write> inv_std_out: array<f32>;

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
    let base = row * p.n;

    var mean = 0.0;
    if (!RMS) {
        var sum = 0.0;
        for (var k = lane; k < n; k += LANES) {
            sum += x[base + k];
        }
        mean = row_sum(local, sum) / f32(p.n);
    }
    // The mean is subtracted before squaring: sum of squares minus square of the sum would cancel.
    var squares = 0.0;
    for (var k = lane; k < n; k += LANES) {
        let d = x[base + k] - mean;
        squares += d * d;
    }
    let inv_std = 1.0 / sqrt(row_sum(local, squares) / f32(p.n) + p.epsilon);

    for (var k = lane; k < n; k += LANES) {
        var v = (x[base + k] - mean) * inv_std;
        if (GAMMA) {
            v *= gamma[k];
        }
        if (BETA) {
            v += beta[k];
        }
        y[base + k] = v;
    }
    if (lane == 0u && row < p.rows) {
        if (MEAN) {
            mean_out[row] = mean;
        }
        if (INV_STD) {
            inv_std_out[row] = inv_std;
        }
    }
}
