@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;

// Finishes the sum of one output and stores it, unless it lies outside the matrix.
fn store(sum: f32, row: u32, col: u32, z: u32) {
    if (row >= p.m || col >= p.n) {
        return;
    }
    let at = (z * p.m + row) * p.n + col;
    var v = p.alpha * sum;
    if ((p.flags & BIAS) != 0u) {
        if ((p.flags & BIAS_ROW) != 0u) {
            v += bias[(z % p.groups) * p.m + row];
        } else {
            v += bias[col];
        }
    }
    v = unary(p.activation, v, p.activation_a, p.activation_b);
    if ((p.flags & RESIDUAL) != 0u) {
        v += residual[at];
    }
    if ((p.flags & RELU) != 0u && v < 0.0) {
        v = 0.0;
    }
    y[at] = v;
}
