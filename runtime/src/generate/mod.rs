//! Text from decoders: which token comes next, and what becomes of it.
//!
//! - [`sampling`] says how a token is chosen. The choice itself is the operator [`crate::graph::Op::Sample`], so that it runs
//!   where the logits lie; [`sampler`] puts it there.
//! - [`beam`] follows several texts at once.
//! - `detokenize` turns tokens into pieces of text (feature `text`), and [`stop`] ends the text at stop strings.
//! - `chat` writes a conversation as the text that a model knows (feature `chat`).
//!
//! Nothing here knows a model's name, a file or a clock.

pub mod beam;
#[cfg(feature = "chat")]
pub mod chat;
#[cfg(feature = "text")]
pub mod detokenize;
pub mod sampler;
pub mod sampling;
pub mod stop;

pub use beam::{BeamError, BeamOptions, BeamSearch, Candidate, Hypothesis, Next};
#[cfg(feature = "chat")]
pub use chat::{ChatError, ChatFiles, ChatOptions, ChatTemplate, Content, Message, Part};
#[cfg(feature = "text")]
pub use detokenize::{DetokenizeError, Detokenizer};
pub use sampler::append_sampler;
pub use sampling::{EarlyStopping, GenerationConfig, Sampling, SamplingError, uniform};
pub use stop::{StopError, StopStrings};
