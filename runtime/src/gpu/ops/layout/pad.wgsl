// Padding (and, where it is negative, cropping) of 32-bit words.

struct Params {
    len: u32,
    rank: u32,
    pad0: u32,
    pad1: u32,
    out_dims: array<vec4<u32>, 2>,
    in_dims: array<vec4<u32>, 2>,
    before: array<vec4<i32>, 2>,
}

// 0 constant, 1 reflect, 2 edge.
override MODE: u32 = 0u;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
// One element; zeros where the model gives none.
@group(0) @binding(2) var<storage, read> value: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_id(group, groups, 256u, local);
    if (i >= p.len) {
        return;
    }
    var rest = i;
    var source = 0u;
    var stride = 1u;
    var inside = true;
    for (var k = p.rank; k > 0u; k--) {
        let d = k - 1u;
        let n = p.out_dims[d / 4u][d % 4u];
        let size = i32(p.in_dims[d / 4u][d % 4u]);
        var at = i32(rest % n) - p.before[d / 4u][d % 4u];
        rest /= n;
        if (MODE == 0u) {
            inside = inside && at >= 0 && at < size;
        } else if (MODE == 1u) {
            // Mirrors follow each other with a period of twice the size, edges not repeated.
            let period = max(2 * (size - 1), 1);
            at = ((at % period) + period) % period;
            at = select(at, period - at, at >= size);
        }
        source += u32(clamp(at, 0, size - 1)) * stride;
        stride *= u32(size);
    }
    if (inside) {
        y[i] = x[source];
    } else {
        y[i] = value[0];
    }
}
