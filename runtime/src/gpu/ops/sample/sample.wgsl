// The choice of the next token: one workgroup a row, nothing sorted. What top-k and top-p keep is "all logits from this
// one up"; it is found byte by byte on the logits' order-preserving bits, by histograms in workgroup memory. Weights
// are whole numbers, summed in 64 bits (x is the low half), so the order in which invocations add does not matter.

struct Params {
    rows: u32,
    vocab: u32,
    history: u32,
    recent: u32,
    // 0 if all rows share the settings.
    stride: u32,
    // Words of a row of `seen`.
    seen: u32,
    pad0: u32,
    pad1: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> history: array<i32>;
@group(0) @binding(3) var<storage, read> settings: array<f32>;
@group(0) @binding(4) var<storage, read> recent: array<i32>;
@group(0) @binding(5) var<storage, read_write> tokens: array<i32>;
// Bits of f32: WGSL gives no way to write a NaN as a float.
@group(0) @binding(6) var<storage, read_write> scores: array<u32>;
// One bit a token: whether it was there before.
@group(0) @binding(7) var<storage, read_write> seen: array<atomic<u32>>;

const LARGEST: f32 = 3.4028234e38;
const LOWEST_KEY: u32 = 0x007fffffu; // Minus infinity.
const NAN_BITS: u32 = 0x7fc00000u;
const PARTS: f32 = 16777216.0;

var<workgroup> bins_low: array<atomic<u32>, 256>;
var<workgroup> bins_high: array<atomic<u32>, 256>;
var<workgroup> sums: array<vec2<u32>, 256>;
var<workgroup> places: array<u32, 256>;
var<workgroup> floats: array<f32, 256>;
var<workgroup> chosen: vec4<u32>;

fn add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn less64(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn mul64(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let mid0 = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let mid1 = (a & 0xffffu) * (b >> 16u) + (mid0 & 0xffffu);
    return vec2<u32>((mid1 << 16u) | (low & 0xffffu), (a >> 16u) * (b >> 16u) + (mid0 >> 16u) + (mid1 >> 16u));
}

// `part` (in 0..1) of a total, in whole numbers: total * floor(part * 2^24) >> 24.
fn share(total: vec2<u32>, part: f32) -> vec2<u32> {
    let parts = u32(clamp(part * PARTS, 0.0, PARTS - 1.0));
    let low = mul64(total.x, parts);
    let high = mul64(total.y, parts);
    let mid = low.y + high.x;
    let top = high.y + select(0u, 1u, mid < low.y);
    return vec2<u32>((low.x >> 24u) | (mid << 8u), (mid >> 24u) | (top << 8u));
}

// Bits that compare as whole numbers the way the floats do, zeros being equal.
fn order(bits: u32) -> u32 {
    if (bits == 0x80000000u) {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

// The logit of token i after the repetition penalty.
fn score(row: u32, i: u32, penalty: f32) -> f32 {
    let x = bitcast<f32>(logits[row * p.vocab + i]);
    if (penalty == 1.0 || (atomicLoad(&seen[row * p.seen + (i >> 5u)]) & (1u << (i & 31u))) == 0u) {
        return x;
    }
    return select(min(x / penalty, LARGEST), x * penalty, x < 0.0);
}

fn key_of(row: u32, i: u32, penalty: f32) -> u32 {
    return order(bitcast<u32>(score(row, i, penalty)));
}

// Whole parts of the largest logit's weight, which is 2^31.
fn weight(x: f32, highest: f32, temperature: f32) -> u32 {
    return u32(min(exp((x - highest) / temperature), 1.0) * 2147483648.0);
}

fn mark(row: u32, id: i32) {
    if (id >= 0 && u32(id) < p.vocab) {
        atomicOr(&seen[row * p.seen + (u32(id) >> 5u)], 1u << (u32(id) & 31u));
    }
}

// Afterwards places[0] is the first place of the largest of the invocations' keys. All call it together.
fn largest(local: u32, key: u32, place: u32) -> u32 {
    sums[local] = vec2<u32>(key, 0u);
    places[local] = place;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step >>= 1u) {
        if (local < step) {
            let a = sums[local].x;
            let b = sums[local + step].x;
            if (b > a || (b == a && places[local + step] < places[local])) {
                sums[local].x = b;
                places[local] = places[local + step];
            }
        }
        workgroupBarrier();
    }
    let found = places[0];
    workgroupBarrier();
    return found;
}

// sums[i] becomes the sum of the first i + 1 values.
fn scan(local: u32, value: vec2<u32>) {
    sums[local] = value;
    workgroupBarrier();
    for (var step = 1u; step < 256u; step <<= 1u) {
        var sum = sums[local];
        if (local >= step) {
            sum = add64(sum, sums[local - step]);
        }
        workgroupBarrier();
        sums[local] = sum;
        workgroupBarrier();
    }
}

// The largest key such that the weights of all tokens at or above it (and at or above `least`) reach `wanted`, which is
// more than 0 and at most the sum of them all. A temperature of 0 counts tokens instead.
fn threshold(
    local: u32, row: u32, penalty: f32, highest: f32, temperature: f32, least: u32, wanted: vec2<u32>,
) -> u32 {
    var prefix = 0u;
    var above = vec2<u32>(0u);
    for (var digit = 0u; digit < 4u; digit++) {
        let shift = 24u - 8u * digit;
        atomicStore(&bins_low[local], 0u);
        atomicStore(&bins_high[local], 0u);
        if (local == 0u) {
            chosen = vec4<u32>(0u);
        }
        workgroupBarrier();
        for (var i = local; i < p.vocab; i += 256u) {
            let x = score(row, i, penalty);
            let key = order(bitcast<u32>(x));
            // Shifting by 32 is not allowed: in the first pass everything shares "the bytes so far".
            let fits = digit == 0u || (key >> ((shift + 8u) & 31u)) == (prefix >> ((shift + 8u) & 31u));
            if (fits && key >= least) {
                var w = 1u;
                if (temperature > 0.0) {
                    w = weight(x, highest, temperature);
                }
                let bin = (key >> shift) & 255u;
                let before = atomicAdd(&bins_low[bin], w);
                if (before + w < before) {
                    atomicAdd(&bins_high[bin], 1u);
                }
            }
        }
        workgroupBarrier();
        // Summed from the highest bin down.
        let bin = 255u - local;
        let own = vec2<u32>(atomicLoad(&bins_low[bin]), atomicLoad(&bins_high[bin]));
        scan(local, own);
        let reached = add64(above, sums[local]);
        var before = above;
        if (local > 0u) {
            before = add64(above, sums[local - 1u]);
        }
        if (less64(before, wanted) && !less64(reached, wanted)) {
            chosen = vec4<u32>(bin, before, 0u);
        }
        workgroupBarrier();
        let found = chosen;
        workgroupBarrier();
        prefix |= found.x << shift;
        above = found.yz;
    }
    return prefix;
}

// The sum of the weights at or above `least` of an invocation's tokens begin..end.
fn weigh(row: u32, begin: u32, end: u32, penalty: f32, highest: f32, temperature: f32, least: u32) -> vec2<u32> {
    var sum = vec2<u32>(0u);
    for (var i = begin; i < end; i++) {
        let x = score(row, i, penalty);
        if (order(bitcast<u32>(x)) >= least) {
            sum = add64(sum, vec2<u32>(weight(x, highest, temperature), 0u));
        }
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = linear_group(group, groups);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.stride;
    let temperature = settings[at];
    let top_k = u32(clamp(settings[at + 1u], 0.0, PARTS));
    let top_p = settings[at + 2u];
    let given = settings[at + 3u];
    let draw = settings[at + 4u];
    let penalty = select(1.0, given, given > 0.0 && p.history + p.recent > 0u);

    if (penalty != 1.0) {
        for (var i = local; i < p.seen; i += 256u) {
            atomicStore(&seen[row * p.seen + i], 0u);
        }
        storageBarrier();
        for (var i = local; i < p.history; i += 256u) {
            mark(row, history[row * p.history + i]);
        }
        for (var i = local; i < p.recent; i += 256u) {
            mark(row, recent[row * p.recent + i]);
        }
        storageBarrier();
    }

    // The largest logit as it came and after the penalty, and whether all can be used.
    var raw_key = 0u;
    var raw_place = 0u;
    var key = 0u;
    var place = 0u;
    var broken = 0u;
    for (var i = local; i < p.vocab; i += 256u) {
        let bits = logits[row * p.vocab + i];
        // By bits, since shaders may assume that there is no NaN.
        if ((bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u) {
            broken = 1u;
        }
        if (order(bits) > raw_key) {
            raw_key = order(bits);
            raw_place = i;
        }
        let k = key_of(row, i, penalty);
        if (k > key) {
            key = k;
            place = i;
        }
    }
    let raw_top = largest(local, raw_key, raw_place);
    let top = largest(local, key, place);
    let raw_highest = bitcast<f32>(logits[row * p.vocab + raw_top]);
    var sum = 0.0;
    for (var i = local; i < p.vocab; i += 256u) {
        sum += exp(bitcast<f32>(logits[row * p.vocab + i]) - raw_highest);
    }
    floats[local] = sum;
    places[local] = broken;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step >>= 1u) {
        if (local < step) {
            floats[local] += floats[local + step];
            places[local] |= places[local + step];
        }
        workgroupBarrier();
    }
    let all_broken = places[0] | select(0u, 1u, order(logits[row * p.vocab + raw_top]) <= LOWEST_KEY);
    let total = floats[0];
    workgroupBarrier();

    var token = top;
    if (temperature > 0.0) {
        let highest = score(row, top, penalty);
        var least = 0u;
        if (top_k > 0u && top_k < p.vocab) {
            least = threshold(local, row, penalty, highest, 0.0, least, vec2<u32>(top_k, 0u));
        }
        // Neighbouring tokens to one invocation: the draw needs sums in the tokens' order.
        let span = (p.vocab + 255u) / 256u;
        let begin = min(local * span, p.vocab);
        let end = min(begin + span, p.vocab);
        if (top_p < 1.0) {
            scan(local, weigh(row, begin, end, penalty, highest, temperature, least));
            var wanted = share(sums[255], top_p);
            workgroupBarrier();
            if (wanted.x == 0u && wanted.y == 0u) {
                wanted.x = 1u;
            }
            least = threshold(local, row, penalty, highest, temperature, least, wanted);
        }
        scan(local, weigh(row, begin, end, penalty, highest, temperature, least));
        let drawn = share(sums[255], draw);
        var so_far = vec2<u32>(0u);
        if (local > 0u) {
            so_far = sums[local - 1u];
        }
        let reached = sums[local];
        if (local == 0u) {
            chosen.x = top;
        }
        workgroupBarrier();
        // The one invocation whose tokens hold the draw looks for it.
        if (!less64(drawn, so_far) && less64(drawn, reached)) {
            for (var i = begin; i < end; i++) {
                let x = score(row, i, penalty);
                if (order(bitcast<u32>(x)) >= least) {
                    so_far = add64(so_far, vec2<u32>(weight(x, highest, temperature), 0u));
                    if (less64(drawn, so_far)) {
                        chosen.x = i;
                        break;
                    }
                }
            }
        }
        workgroupBarrier();
        token = chosen.x;
    }

    if (local == 0u) {
        let x = bitcast<f32>(logits[row * p.vocab + token]) - raw_highest - log(total);
        tokens[row] = select(i32(token), 0, all_broken != 0u);
        scores[row] = select(bitcast<u32>(x), NAN_BITS, all_broken != 0u);
    }
}
