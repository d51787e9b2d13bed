// y[o, j, c] = x[o, indices[j], c]. One output word an invocation. KIND says what a word holds:
// 0 one element T (a word, or four), 1 two f16, 2 four 8-bit numbers, 3 one f32 from an f16 table.
// An index out of range gives zeros: the device cannot report it, and must not read elsewhere.

struct Params {
    len: u32,
    inner: u32,
    count: u32,
    size: u32,
}

override KIND: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<T>;
@group(0) @binding(2) var<storage, read> indices: array<i32>;
@group(0) @binding(3) var<storage, read_write> y: array<T>;

// The table's element for element i of the output, or 0xffffffff.
fn source_of(i: u32) -> u32 {
    let c = i % p.inner;
    let row = i / p.inner;
    var at = indices[row % p.count];
    if (at < 0) {
        at += i32(p.size);
    }
    if (at < 0 || at >= i32(p.size)) {
        return 0xffffffffu;
    }
    return (row / p.count * p.size + u32(at)) * p.inner + c;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let w = linear_id(group, groups, 256u, local);
    let per_word = select(select(1u, 2u, KIND == 1u), 4u, KIND == 2u);
    if (w * per_word >= p.len) {
        return;
    }
    y[w] = word(w, per_word);
}
