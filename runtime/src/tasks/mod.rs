//! What a user asks for: pictures and texts in, vectors, matches and labels out.
//!
//! A task turns input into graph inputs ([`image`], [`text`]), runs one or two graphs through the
//! seam in [`tower`], and turns graph outputs into answers ([`pooling`], [`classify`], [`index`]).
//! Everything a task decides, it decides by the configuration files beside a model ([`config`]) and
//! by the names of the graph's inputs and outputs, never by the name of a model.
//!
//! Nothing here touches the file system except [`index::Index::save`] and [`index::Index::load`],
//! so that the same code serves a browser, which hands over bytes.

pub mod classify;
pub mod config;
pub mod dual_tower;
pub mod fingerprint;
pub mod image;
pub mod index;
pub mod pooling;
pub mod similarity;
#[cfg(feature = "text")]
pub mod text;
pub mod tokens;
pub mod tower;
#[cfg(feature = "text")]
pub mod writing;

#[cfg(test)]
mod testing;
