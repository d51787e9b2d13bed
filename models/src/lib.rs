//! Models known to Lenslet.
