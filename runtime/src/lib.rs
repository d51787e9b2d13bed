//! Lenslet.
pub mod tasks;
