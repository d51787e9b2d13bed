//! Decoders: sequences of tokens, with caches that stay on the device.

mod decoder;
mod error;
mod state;
mod trim;

pub use decoder::{Decoder, Feed};
pub use error::DecoderError;
pub use state::State;
