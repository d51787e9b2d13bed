//! Text from decoders: which token comes next, and what becomes of it.
//!
//! [`sampling`] says how a token is chosen (the choice itself is the operator [`crate::graph::Op::Sample`], so that it
//! runs where the logits lie). Nothing here knows a model's name, a file or a clock.

pub mod sampling;

pub use sampling::{GenerationConfig, Sampling, SamplingError, uniform};
