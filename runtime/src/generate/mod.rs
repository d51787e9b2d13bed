//! Text from decoders: sequences of tokens, with caches that stay on the device; which token comes next, and what becomes
//! of it.
//!
//! - [`decoder`] turns one or two graphs into a decoder; [`state`] is one sequence with its caches; [`generation`] is the
//!   loop. [`shared`] is where texts leave steps that are taken together.
//! - [`sampling`] says how a token is chosen. The choice itself is the operator [`crate::graph::Op::Sample`], so that it
//!   runs where the logits lie; [`sampler`] puts it there.
//! - [`beam`] follows several texts at once; [`beams`] leads a decoder along them.
//! - `detokenize` turns tokens into pieces of text (feature `text`), and [`stop`] ends the text at stop strings.
//! - `chat` writes a conversation as the text that a model knows (feature `chat`).
//!
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
pub mod shared;
pub mod state;
pub mod stop;
mod trim;

pub use beam::{BeamError, BeamOptions, BeamSearch, Candidate, Hypothesis, Next};
pub use beams::BeamGeneration;
#[cfg(feature = "chat")]
pub use chat::{ChatError, ChatFiles, ChatOptions, ChatTemplate, Content, Message, Part};
pub use decoder::{Choice, Decoder, Feed, SharedStep};
#[cfg(feature = "text")]
pub use detokenize::{DetokenizeError, Detokenizer};
pub use error::DecoderError;
pub use generation::{Finish, GenerateOptions, Generation, Prompt};
pub use sampler::append_sampler;
pub use sampling::{EarlyStopping, GenerationConfig, Sampling, SamplingError, uniform};
pub use shared::SharedSteps;
pub use state::State;
pub use stop::{StopError, StopStrings};
