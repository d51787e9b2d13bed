// The position of the largest (or least) element along one dimension. Element k of row r lies at
// r / inner * n * inner + k * inner + r % inner. T is f32 or i32.

struct Params {
    rows: u32,
    n: u32,
    inner: u32,
    pad: u32,
}

override LANES: u32 = 256u;
override MIN: bool = false;
override LAST: bool = false;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read_write> y: array<i32>;

var<workgroup> values: array<T, 256>;
var<workgroup> places: array<u32, 256>;

// Whether b at place j beats a at place i.
fn beats(b: T, j: u32, a: T, i: u32) -> bool {
    if (a == b) {
        return (j > i) == LAST;
    }
    return (b > a) != MIN;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = linear_group(group, groups) * (256u / LANES) + local / LANES;
    let lane = local & (LANES - 1u);
    let n = select(0u, p.n, row < p.rows);
    let base = row / p.inner * p.n * p.inner + row % p.inner;
    var place = min(lane, p.n - 1u);
    var value = T(0);
    if (n > 0u) {
        // A lane behind the row's end repeats the last element, which changes nothing.
        value = x[base + place * p.inner];
    }
    for (var k = lane + LANES; k < n; k += LANES) {
        let v = x[base + k * p.inner];
        if (beats(v, k, value, place)) {
            value = v;
            place = k;
        }
    }
    values[local] = value;
    places[local] = place;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        if (lane < step) {
            let v = values[local + step];
            let k = places[local + step];
            if (beats(v, k, values[local], places[local])) {
                values[local] = v;
                places[local] = k;
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u && row < p.rows) {
        y[row] = i32(places[local]);
    }
}
