//! Models known to Lenslet, and what the command-line tool is made of.

pub mod check;
