override OP: u32 = 0u;

alias R = u32;

fn apply(a: T, b: T) -> R {
    switch OP {
        case 9u: { return u32(a == b); }
        case 10u: { return u32(a < b); }
        case 11u: { return u32(a <= b); }
        case 12u: { return u32(a > b); }
        case 13u: { return u32(a >= b); }
        case 14u: { return u32(bool(a) && bool(b)); }
        case 15u: { return u32(bool(a) || bool(b)); }
        default: { return u32(bool(a) != bool(b)); }
    }
}
