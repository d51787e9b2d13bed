// The same for elements of 8 or 16 bits, into a dense output: an invocation gathers the elements of one whole word, so
// no two write the same word.

struct Params {
    len: u32,
    rank: u32,
    in_offset: i32,
    out_offset: u32,
    dims: array<vec4<u32>, 2>,
    in_strides: array<vec4<i32>, 2>,
    out_strides: array<vec4<u32>, 2>,
}

override BITS: u32 = 8u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

fn source_of(i: u32) -> u32 {
    var rest = i;
    var source = p.in_offset;
    for (var k = p.rank; k > 0u; k--) {
        let d = k - 1u;
        let n = p.dims[d / 4u][d % 4u];
        source += i32(rest % n) * p.in_strides[d / 4u][d % 4u];
        rest /= n;
    }
    return u32(source);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let per_word = 32u / BITS;
    let w = linear_id(group, groups, 256u, local);
    if (w * per_word >= p.len) {
        return;
    }
    var word = 0u;
    for (var k = 0u; k < per_word; k++) {
        let i = w * per_word + k;
        if (i < p.len) {
            let s = source_of(i);
            let bits = (x[s / per_word] >> ((s % per_word) * BITS)) & ((1u << BITS) - 1u);
            word |= bits << (k * BITS);
        }
    }
    y[w] = word;
}
