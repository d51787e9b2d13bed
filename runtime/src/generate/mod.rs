//! Text from decoders: sequences of tokens, with caches that stay on the device; which token comes next, and what becomes
//! of it.
//!
//! - [`decoder`] turns one or two graphs into a decoder; [`state`] is one sequence with its caches.
//! [`sampling`] says how a token is chosen (the choice itself is the operator [`crate::graph::Op::Sample`], so that it
//! runs where the logits lie, and [`sampler`] puts it there); [`detokenize`] turns tokens into pieces of text, and [`stop`] ends the text at stop strings;
//! [`beam`] follows several texts at once, and [`beams`] leads the decoder along; [`chat`] writes a conversation as the text that a model knows.
//! Nothing here knows a model's name, a file or a clock.

pub mod beam;
pub mod beams;
#[cfg(feature = "chat")]
pub mod chat;
pub mod decoder;
#[cfg(feature = "text")]
pub mod detokenize;
mod embedder;
mod error;
pub mod generation;
pub mod sampler;
pub mod sampling;
pub mod state;
pub mod stop;
mod trim;

pub use beam::{BeamError, BeamOptions, BeamSearch, Candidate, Hypothesis, Next};
pub use beams::BeamGeneration;
#[cfg(feature = "chat")]
pub use chat::{ChatError, ChatFiles, ChatOptions, ChatTemplate, Content, Message, Part};
pub use decoder::{Choice, Decoder, Feed};
#[cfg(feature = "text")]
pub use detokenize::{DetokenizeError, Detokenizer};
pub use error::DecoderError;
pub use generation::{Finish, GenerateOptions, Generation, Prompt};
pub use sampler::append_sampler;
pub use sampling::{EarlyStopping, GenerationConfig, Sampling, SamplingError, uniform};
pub use state::State;
pub use stop::{StopError, StopStrings};
