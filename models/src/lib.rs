//! Models known to Lenslet, and what the command-line tool is made of.
//!
//! [`folder`] finds a model on disk and says which graph file holds which tower, [`catalog`] lists the models known by
//! name, [`dual`] makes a dual tower of a folder, [`check`] compares a graph with recorded outputs.

pub mod catalog;
pub mod check;
pub mod dual;
pub mod folder;
pub mod shapes;
