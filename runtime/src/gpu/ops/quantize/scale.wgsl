// Scale and zero point from the workgroups' ranges: (max - min) / 255 and round(0 - min / scale), as ONNX defines
// DynamicQuantizeLinear.
struct Params {
    ranges: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ranges: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> zero: array<u32>;

@compute @workgroup_size(1)
fn main() {
    var range = vec2<f32>();
    for (var i = 0u; i < p.ranges; i++) {
        range = vec2<f32>(min(range.x, ranges[i].x), max(range.y, ranges[i].y));
    }
    var s = 1.0;
    if (range.x < range.y) {
        s = exact_divide(range.y - range.x, 255.0);
    }
    scale[0] = s;
    zero[0] = u32(clamp(round(-exact_divide(range.x, s)), 0.0, 255.0));
}
