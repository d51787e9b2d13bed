// Keeps a triangle of each matrix of words, and zeroes the rest.

struct Params {
    len: u32,
    rows: u32,
    columns: u32,
    upper: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
// The diagonal; zeros where the model gives none.
@group(0) @binding(2) var<storage, read> diagonal: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_id(group, groups, 256u, local);
    if (i >= p.len) {
        return;
    }
    let column = i32(i % p.columns);
    let row = i32(i / p.columns % p.rows);
    // A huge diagonal must not overflow the sum.
    let k = clamp(diagonal[0], -i32(p.rows) - 1, i32(p.columns) + 1);
    let keep = select(column <= row + k, column >= row + k, p.upper != 0u);
    y[i] = select(0u, x[i], keep);
}
