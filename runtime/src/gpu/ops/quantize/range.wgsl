// The least and largest element, zero included, of each workgroup's share.
struct Params {
    elements: u32,
    stride: u32,
    unused0: u32,
    unused1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> ranges: array<vec2<f32>>;

var<workgroup> sums: array<vec2<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var range = vec2<f32>();
    for (var i = group.x * 256u + lane; i < p.elements; i += p.stride) {
        range = vec2<f32>(min(range.x, x[i]), max(range.y, x[i]));
    }
    sums[lane] = range;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step /= 2u) {
        if (lane < step) {
            let other = sums[lane + step];
            sums[lane] = vec2<f32>(min(sums[lane].x, other.x), max(sums[lane].y, other.y));
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        ranges[group.x] = sums[0];
    }
}
