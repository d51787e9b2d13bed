//! One suite for all backends.

pub mod zoo;
