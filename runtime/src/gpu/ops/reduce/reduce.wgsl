// Reductions over any dimensions. LANES invocations share one output: 1 where neighbouring outputs lie side by side in the
// input, more where the reduced elements do. T is f32 or i32.

struct Params {
    outputs: u32,
    n: u32,
    kept_rank: u32,
    rank: u32,
    kept_dims: array<vec4<u32>, 2>,
    kept_strides: array<vec4<u32>, 2>,
    dims: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}

override LANES: u32 = 256u;
// 0 mean, 1 sum, 2 maximum, 3 minimum, 4 product, 5 Euclidean norm, 6 sum of squares.
override OP: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<T>;

var<workgroup> scratch: array<T, 256>;

fn combine(a: T, b: T) -> T {
    switch OP {
        case 2u: { return max(a, b); }
        case 3u: { return min(a, b); }
        case 4u: { return a * b; }
        default: { return a + b; }
    }
}

// Where reduced element k of an output lies behind the output's first.
fn offset_of(k: u32) -> u32 {
    if (p.rank == 1u) {
        return k * p.strides[0].x;
    }
    var rest = k;
    var offset = 0u;
    for (var j = p.rank; j > 0u; j--) {
        let d = j - 1u;
        let n = p.dims[d / 4u][d % 4u];
        offset += rest % n * p.strides[d / 4u][d % 4u];
        rest /= n;
    }
    return offset;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let o = linear_group(group, groups) * (256u / LANES) + local / LANES;
    let lane = local & (LANES - 1u);
    // Outputs behind the last take part in the barriers with nothing to do.
    let n = select(0u, p.n, o < p.outputs);
    var rest = o;
    var base = 0u;
    for (var j = p.kept_rank; j > 0u; j--) {
        let d = j - 1u;
        let size = p.kept_dims[d / 4u][d % 4u];
        base += rest % size * p.kept_strides[d / 4u][d % 4u];
        rest /= size;
    }
    var value = T(0);
    if (OP == 4u) {
        value = T(1);
    }
    if ((OP == 2u || OP == 3u) && n > 0u) {
        // Any element does as a start, and none is a number that the type might not hold.
        value = x[base];
    }
    for (var k = lane; k < n; k += LANES) {
        let v = x[base + offset_of(k)];
        if (OP == 5u || OP == 6u) {
            value += v * v;
        } else {
            value = combine(value, v);
        }
    }
    scratch[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if (lane < step) {
            scratch[local] = combine(scratch[local], scratch[local + step]);
        }
        workgroupBarrier();
    }
    if (lane == 0u && o < p.outputs) {
        let total = scratch[local];
        if (OP == 0u) {
            y[o] = total / T(p.n);
        } else if (OP == 5u) {
            y[o] = T(sqrt(f32(total)));
        } else {
            y[o] = total;
        }
    }
}
