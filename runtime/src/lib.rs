//! Lenslet.
