alias T = u32;

// No arithmetic on bools; the predicates below do not call this.
fn arith(op: u32, a: u32, b: u32) -> u32 {
    return a;
}
