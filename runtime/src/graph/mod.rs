//! The graph that models are turned into.

mod op;

pub use op::*;
