// Rows of a quantized table, widened as they are read. One invocation an element.
struct Params {
    elements: u32,
    unused: u32,
    bits: u32,
    flags: u32,
    // Elements of one slice behind the gathered dimension, that dimension's size, and how many indices there are.
    inner: u32,
    rows: u32,
    indices: u32,
    block: u32,
    // The quantized dimension: elements behind it, its size, and the blocks along it.
    q_inner: u32,
    q_size: u32,
    q_blocks: u32,
    // The last dimension of the scales, for zero points packed along it.
    scale_row: u32,
}

const ZEROS: u32 = 2u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> data: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<i32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read> zeros: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = linear_id(group, groups, 64u, lane);
    if (at >= p.elements) {
        return;
    }
    let inner = at % p.inner;
    let rest = at / p.inner;
    let outer = rest / p.indices;
    let wanted = indices[rest % p.indices];
    let row = u32(select(wanted, wanted + i32(p.rows), wanted < 0));
    // An index out of range cannot be reported from here; it reads the last row.
    let element = (outer * p.rows + min(row, p.rows - 1u)) * p.inner + inner;
    let bit = element * p.bits;
    let q = f32(extractBits(data[bit / 32u], bit % 32u, p.bits));

    let along = (element / p.q_inner) % p.q_size;
    let block = (element / (p.q_inner * p.q_size)) * p.q_blocks + along / p.block;
    let scale = block * p.q_inner + element % p.q_inner;
    var zero = f32(1u << (p.bits - 1u));
    if ((p.flags & ZEROS) != 0u) {
        let row_bytes = (p.scale_row * p.bits + 7u) / 8u;
        let zero_bit = scale / p.scale_row * row_bytes * 8u + scale % p.scale_row * p.bits;
        zero = f32(extractBits(zeros[zero_bit / 32u], zero_bit % 32u, p.bits));
    }
    y[at] = (q - zero) * stored(scales[stored_word(scale)], scale);
}
