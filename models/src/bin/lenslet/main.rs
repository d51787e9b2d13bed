//! The `lenslet` command.
fn main() {}
