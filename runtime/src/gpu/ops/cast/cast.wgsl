// One word of the output an invocation: one, two or four elements. FROM and TO are numbers of element types:
// 0 f32, 1 i32 (and i64), 2 bool, 3 f16, 4 u8, 5 i8.

struct Params {
    words: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

override FROM: u32 = 0u;
override TO: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

fn is_float(kind: u32) -> bool {
    return kind == 0u || kind == 3u;
}

fn float_at(i: u32) -> f32 {
    switch FROM {
        case 0u: { return bitcast<f32>(x[i]); }
        case 3u: { return load_f16(x[i / 2u], i); }
        default: { return f32(integer_at(i)); }
    }
}

fn integer_at(i: u32) -> i32 {
    switch FROM {
        case 4u: { return i32(load_u8(x[i / 4u], i)); }
        case 5u: { return load_i8(x[i / 4u], i); }
        default: { return bitcast<i32>(x[i]); }
    }
}

fn to_integer(i: u32) -> i32 {
    if (is_float(FROM)) {
        return i32(float_at(i));
    }
    return integer_at(i);
}

fn to_bool(i: u32) -> u32 {
    if (is_float(FROM)) {
        return u32(float_at(i) != 0.0);
    }
    return u32(integer_at(i) != 0);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let w = linear_id(group, groups, 256u, local);
    if (w >= p.words) {
        return;
    }
    // Elements behind the tensor's end land in the padding of its last word.
    switch TO {
        case 0u: { y[w] = bitcast<u32>(float_at(w)); }
        case 1u: { y[w] = bitcast<u32>(to_integer(w)); }
        case 2u: { y[w] = to_bool(w); }
        case 3u: { y[w] = pack_f16(float_at(2u * w), float_at(2u * w + 1u)); }
        default: {
            let i = 4u * w;
            let a = bitcast<u32>(to_integer(i)) & 0xffu;
            let b = bitcast<u32>(to_integer(i + 1u)) & 0xffu;
            let c = bitcast<u32>(to_integer(i + 2u)) & 0xffu;
            let d = bitcast<u32>(to_integer(i + 3u)) & 0xffu;
            y[w] = a | (b << 8u) | (c << 16u) | (d << 24u);
        }
    }
}
