// The activations that an epilogue can apply. The kind is a uniform, not a constant of the shader: one switch per
// output costs nothing beside the product, and a pipeline per activation would cost the user seconds of compiling.

// Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    // Beyond 10 the exponential is zero; the bound keeps x * x finite.
    let bounded = min(abs(x), 10.0);
    return sign(x) * (1.0 - poly * exp(-bounded * bounded));
}

fn sigmoid(x: f32) -> f32 {
    // The bound keeps the exponential finite: some drivers assume that there are no infinities.
    return 1.0 / (1.0 + exp(min(-x, 80.0)));
}

fn bounded_tanh(x: f32) -> f32 {
    // Some drivers compute tanh through exponentials that overflow.
    return tanh(clamp(x, -15.0, 15.0));
}

fn activate(kind: u32, x: f32, a: f32, b: f32) -> f32 {
    switch kind {
        case 1u: { return max(x, 0.0); }
        case 2u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        case 3u: { return 0.5 * x * (1.0 + bounded_tanh(0.7978845608 * (x + 0.044715 * x * x * x))); }
        case 4u: { return x * sigmoid(a * x); }
        case 5u: { return sigmoid(x); }
        case 6u: { return bounded_tanh(x); }
        case 7u: { return min(max(x, a), b); }
        case 8u: { return select(a * x, x, x >= 0.0); }
        case 9u: { return clamp(a * x + b, 0.0, 1.0); }
        case 10u: { return x * clamp(x / 6.0 + 0.5, 0.0, 1.0); }
        case 11u: { return abs(x); }
        case 12u: { return -x; }
        case 13u: { return exp(x); }
        case 14u: { return sqrt(x); }
        case 15u: { return erf(x); }
        default: { return x; }
    }
}
