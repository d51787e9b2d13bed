// Strides are in elements, in the order batch, head, position, element of the head.
struct Params {
    q_strides: vec4<u32>,
    k_strides: vec4<u32>,
    v_strides: vec4<u32>,
    y_strides: vec4<u32>,
    // The bias's strides for batch, head, query and key; 0 where it broadcasts.
    bias_strides: vec4<u32>,
    heads: u32,
    // Query heads that share one head of keys.
    group: u32,
    queries: u32,
    keys: u32,
    head_size: u32,
    v_head_size: u32,
    scale: f32,
    flags: u32,
    // What a row gets whose keys are all masked: the bits of NaN, or 0.
    empty_row: u32,
    unused0: u32,
    unused1: u32,
    unused2: u32,
}

const BIAS: u32 = 1u;
const LENGTHS: u32 = 2u;
const CAUSAL: u32 = 4u;

@group(0) @binding(0) var<uniform> p: Params;
