alias T = i32;

fn power(a: i32, b: i32) -> i32 {
    if (b < 0) {
        // 1 and -1 have whole inverses; all else truncates to 0.
        if (a == 1) { return 1; }
        if (a == -1) { return select(1, -1, (b & 1) != 0); }
        return 0;
    }
    var r = 1;
    var base = a;
    for (var e = b; e > 0; e >>= 1u) {
        if ((e & 1) != 0) { r *= base; }
        base *= base;
    }
    return r;
}

fn arith(op: u32, a: i32, b: i32) -> i32 {
    switch op {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        case 3u: { return a / b; }
        case 4u: { return power(a, b); }
        case 5u: {
            let r = a % b;
            return select(r, r + b, r != 0 && (r < 0) != (b < 0));
        }
        case 6u: { return a % b; }
        case 7u: { return min(a, b); }
        default: { return max(a, b); }
    }
}
