// Division as the CPU does it. WGSL lets `/` be 2.5 units in the last place off, which near a half changes the rounded
// number; and `fma` need not be fused, so it cannot tell either. Integers can: where the quotient comes close to a half,
// it is divided again bit by bit, correctly rounded. That is seldom, so it costs nothing on average.

// x / s, correctly rounded, for normal numbers whose quotient is normal.
fn exact_divide(x: f32, s: f32) -> f32 {
    let bx = bitcast<u32>(x);
    let bs = bitcast<u32>(s);
    let minus = (bx ^ bs) & 0x80000000u;
    let ex = (bx >> 23u) & 0xffu;
    let es = (bs >> 23u) & 0xffu;
    if (ex == 0u || es == 0u || ex == 255u || es == 255u) {
        return x / s;
    }
    var mx = (bx & 0x7fffffu) | 0x800000u;
    let ms = (bs & 0x7fffffu) | 0x800000u;
    var exponent = i32(ex) - i32(es) + 127;
    if (mx < ms) {
        mx <<= 1u;
        exponent -= 1;
    }
    // The first bit of the quotient is a one; 23 more follow.
    var quotient = 1u;
    var rest = mx - ms;
    for (var i = 0u; i < 23u; i++) {
        rest <<= 1u;
        quotient <<= 1u;
        if (rest >= ms) {
            rest -= ms;
            quotient |= 1u;
        }
    }
    // Half to even; a carry out of the mantissa raises the exponent by itself.
    if (2u * rest > ms || (2u * rest == ms && (quotient & 1u) == 1u)) {
        quotient += 1u;
    }
    if (exponent <= 0 || exponent >= 254) {
        return x / s;
    }
    return bitcast<f32>(minus | ((u32(exponent) << 23u) + (quotient - 0x800000u)));
}

// The whole number that x / s rounds to, halves to even.
fn round_divide(x: f32, s: f32) -> f32 {
    let q = x / s;
    // Beyond 1024 every 8-bit type is saturated whatever the last bits say.
    if (abs(q) < 1024.0 && abs(abs(q - trunc(q)) - 0.5) < 0.001) {
        return round(exact_divide(x, s));
    }
    return round(clamp(q, -100000.0, 100000.0));
}
