// softmax(scale q k^T + bias + mask) v for eight queries of one head, over blocks of 32 keys with a running maximum and
// sum (Dao et al. 2022), so the scores never leave the workgroup.
//
// Lane (query, i): of a block of keys it computes the score of key i; of the output it owns elements i, i + 32 ... i + 224.
const LOWEST: f32 = -3.4028234e38;
const MINUS_INFINITY: u32 = 0xff800000u;

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> lengths: array<i32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// [8 queries][256 elements], [32 keys][32 elements, padded against bank conflicts], [8 queries][32 keys] twice.
var<workgroup> q_rows: array<f32, 2048>;
var<workgroup> k_block: array<f32, 1056>;
var<workgroup> scores: array<f32, 256>;
var<workgroup> weights: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y % p.heads;
    let batch = group.y / p.heads;
    let kv_head = head / p.group;
    let first_query = group.x * 8u;
    let i = lane % 32u;
    let row = lane / 32u;
    let query = first_query + row;

    let q_base = batch * p.q_strides.x + head * p.q_strides.y;
    let k_base = batch * p.k_strides.x + kv_head * p.k_strides.y;
    let v_base = batch * p.v_strides.x + kv_head * p.v_strides.y;
    for (var d = i; d < p.head_size; d += 32u) {
        var value = 0.0;
        if (query < p.queries) {
            value = q[q_base + query * p.q_strides.z + d * p.q_strides.w];
        }
        q_rows[row * 256u + d] = value;
    }

    var key_end = p.keys;
    if ((p.flags & LENGTHS) != 0u) {
        key_end = min(key_end, u32(max(lengths[batch], 0)));
    }
    // The last key that this query sees, plus one. May be none: more queries than keys.
    var row_end = i32(key_end);
    if ((p.flags & CAUSAL) != 0u) {
        row_end = min(row_end, i32(p.keys) - i32(p.queries) + i32(query) + 1);
    }

    var running_max = LOWEST;
    var running_sum = 0.0;
    var out0 = vec4<f32>();
    var out1 = vec4<f32>();
    for (var key0 = 0u; key0 < p.keys; key0 += 32u) {
        var score = 0.0;
        for (var d0 = 0u; d0 < p.head_size; d0 += 32u) {
            // Before the tile is written anew, all lanes must be done with its last use.
            workgroupBarrier();
            for (var j = row; j < 32u; j += 8u) {
                var value = 0.0;
                if (key0 + j < p.keys && d0 + i < p.head_size) {
                    value = k[k_base + (key0 + j) * p.k_strides.z + (d0 + i) * p.k_strides.w];
                }
                k_block[j * 33u + i] = value;
            }
            workgroupBarrier();
            let depth = min(32u, p.head_size - d0);
            for (var d = 0u; d < depth; d++) {
                score += q_rows[row * 256u + d0 + d] * k_block[i * 33u + d];
            }
        }
        score *= p.scale;
        let key = key0 + i;
        var masked = i32(key) >= row_end;
        if ((p.flags & BIAS) != 0u && !masked && query < p.queries) {
            let at = dot(vec4<u32>(batch, head, query, key), p.bias_strides);
            let added = bias[at];
            // By its bits: drivers may assume that no number is infinite.
            masked = bitcast<u32>(added) == MINUS_INFINITY;
            score += added;
        }
        // A finite mask may bring the sum below the least number.
        score = max(score, LOWEST);
        scores[lane] = select(score, LOWEST, masked);
        workgroupBarrier();
        var new_max = running_max;
        for (var j = 0u; j < 32u; j++) {
            new_max = max(new_max, scores[row * 32u + j]);
        }
        // Bounded, since the difference of two extreme numbers is infinite.
        let weight = exp(max(score - new_max, -1000.0));
        weights[lane] = select(weight, 0.0, masked);
        let correction = exp(max(running_max - new_max, -1000.0));
        running_max = new_max;
        running_sum *= correction;
        out0 *= correction;
        out1 *= correction;
        workgroupBarrier();
        let count = min(32u, p.keys - key0);
        for (var j = 0u; j < count; j++) {
            let w = weights[row * 32u + j];
            running_sum += w;
            let at = v_base + (key0 + j) * p.v_strides.z + i * p.v_strides.w;
            let step = 32u * p.v_strides.w;
            if (i < p.v_head_size) {
                out0.x += w * v[at];
            }
            if (i + 32u < p.v_head_size) {
                out0.y += w * v[at + step];
            }
            if (i + 64u < p.v_head_size) {
                out0.z += w * v[at + 2u * step];
            }
            if (i + 96u < p.v_head_size) {
                out0.w += w * v[at + 3u * step];
            }
            if (i + 128u < p.v_head_size) {
                out1.x += w * v[at + 4u * step];
            }
            if (i + 160u < p.v_head_size) {
                out1.y += w * v[at + 5u * step];
            }
            if (i + 192u < p.v_head_size) {
                out1.z += w * v[at + 6u * step];
            }
            if (i + 224u < p.v_head_size) {
                out1.w += w * v[at + 7u * step];
            }
        }
    }

    if (query < p.queries) {
        let y_base = batch * p.y_strides.x + head * p.y_strides.y + query * p.y_strides.z;
        let none = bitcast<f32>(p.empty_row);
        for (var d = i; d < p.v_head_size; d += 32u) {
            let n = d / 32u;
            let value = select(out1[n % 4u], out0[n % 4u], n < 4u);
            if (running_sum > 0.0) {
                y[y_base + d * p.y_strides.w] = value / running_sum;
            } else {
                y[y_base + d * p.y_strides.w] = none;
            }
        }
    }
}
