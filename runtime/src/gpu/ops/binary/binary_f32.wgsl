alias T = f32;

// WGSL's pow is undefined for a negative base, and inexact where models mean a square or a root.
fn power(a: f32, b: f32) -> f32 {
    if (b == 2.0) { return a * a; }
    if (b == 0.5) { return sqrt(a); }
    if (b == 3.0) { return a * a * a; }
    if (b == -1.0) { return 1.0 / a; }
    if (b == 0.0) { return 1.0; }
    if (a >= 0.0) { return pow(a, b); }
    let magnitude = pow(-a, b);
    if (b != trunc(b)) { return sqrt(a); }
    return select(magnitude, -magnitude, abs(b % 2.0) == 1.0);
}

fn arith(op: u32, a: f32, b: f32) -> f32 {
    switch op {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        case 3u: { return a / b; }
        case 4u: { return power(a, b); }
        case 5u: {
            let r = a % b;
            return select(r, r + b, r != 0.0 && (r < 0.0) != (b < 0.0));
        }
        case 6u: { return a % b; }
        case 7u: { return min(a, b); }
        default: { return max(a, b); }
    }
}
