override OP: u32 = 0u;

alias R = T;

fn apply(a: T, b: T) -> R {
    return arith(OP, a, b);
}
