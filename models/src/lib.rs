//! Models known to Lenslet, and what the command-line tool is made of.
//!
//! [`check`] compares a graph with recorded outputs, in browsers too. With the feature `cli`, `folder` finds a model on
//! disk and says which graph file holds which tower, `catalog` lists the models known by name, `dual` makes a dual tower
//! of a folder, `writing` a captioner or text generator, `answerer` what answers questions about pictures. `client` (with the
//! feature of that name) has a server do it.

#[cfg(feature = "cli")]
pub mod answerer;
pub mod bleu;
#[cfg(feature = "cli")]
pub mod catalog;
pub mod check;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "cli")]
pub mod dual;
#[cfg(feature = "cli")]
pub mod folder;
#[cfg(feature = "cli")]
pub mod shapes;
#[cfg(feature = "cli")]
pub mod writing;
