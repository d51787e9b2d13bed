// Functions of one f32. `a` and `b` are the function's parameters, where it has some. The numbers of `op` are those of
// `unary_code` on the host; 0 returns x, so that "no activation" is an op like any other.

// Below 1 a polynomial in x^2; above, 1 - exp(-q(x)) with q fitted to -ln(erfc x). Within 1.6e-7 of erf everywhere.
fn erf_(x: f32) -> f32 {
    let t = abs(x);
    let s = x * x;
    var p = fma(7.875875e-5, s, -8.0168643e-4);
    p = fma(p, s, 5.1890874e-3);
    p = fma(p, s, -2.6854212e-2);
    p = fma(p, s, 0.11283595);
    p = fma(p, s, -0.37612627);
    p = fma(p, s, 1.1283792);
    // Beyond 4 the result is 1 in f32, and the fit would leave its range.
    let u = min(t, 4.0);
    var q = fma(-1.6371514e-6, u, 4.6058043e-5);
    q = fma(q, u, -5.9680563e-4);
    q = fma(q, u, 4.7595963e-3);
    q = fma(q, u, -2.6421136e-2);
    q = fma(q, u, 0.11008008);
    q = fma(q, u, 0.63182606);
    q = fma(q, u, 1.1302334);
    q = fma(q, u, -3.2013805e-4);
    let far = 1.0 - exp(-q);
    return select(select(-far, far, x >= 0.0), x * p, t < 1.0);
}

// Neither branch overflows.
fn sigmoid_(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

// Some drivers compute tanh from exp(2x), which overflows; beyond 10 the result is 1 in f32 anyway.
fn tanh_(x: f32) -> f32 {
    return tanh(clamp(x, -10.0, 10.0));
}

fn unary(op: u32, x: f32, a: f32, b: f32) -> f32 {
    switch op {
        case 1u: { return abs(x); }
        case 2u: { return -x; }
        case 3u: { return exp(x); }
        case 4u: { return log(x); }
        case 5u: { return sqrt(x); }
        case 6u: { return 1.0 / x; }
        case 7u: { return erf_(x); }
        case 8u: { return tanh_(x); }
        case 9u: { return sigmoid_(x); }
        case 10u: { return max(x, 0.0); }
        case 11u: { return sin(x); }
        case 12u: { return cos(x); }
        case 13u: { return floor(x); }
        case 14u: { return ceil(x); }
        case 15u: { return round(x); }
        case 16u: { return sign(x); }
        case 17u: { return min(max(x, a), b); }
        case 18u: { return select(a * x, x, x >= 0.0); }
        case 19u: { return clamp(a * x + b, 0.0, 1.0); }
        case 20u: { return x * clamp(x / 6.0 + 0.5, 0.0, 1.0); }
        case 21u: { return 0.5 * x * (1.0 + erf_(x * 0.70710678)); }
        case 22u: { return 0.5 * x * (1.0 + tanh_(0.79788456 * (x + 0.044715 * x * x * x))); }
        case 23u: { return x * sigmoid_(a * x); }
        default: { return x; }
    }
}
