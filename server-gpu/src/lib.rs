//! The companion server of Lenslet: full-size models behind OpenAI's interface and the Open Inference Protocol.
//!
//! A request passes the gate ([`api`]), is read within bounds, becomes tensors on a small pool ([`schedule::pool`]), waits in a
//! queue with others of its shape ([`schedule`]) and runs in an [`engine`]. Vectors are kept in a [`cache`]. Bulk work may be left as a
//! job, whose parts workers on any number of machines take from a queue outside of the process ([`jobs`]).

pub mod api;
pub mod app;
pub mod cache;
pub mod chat;
pub mod config;
pub mod context;
mod embed;
pub mod engine;
pub mod error;
pub mod hosted;
pub mod jobs;
pub mod load;
pub mod metrics;
mod oip;
mod outbound;
pub mod schedule;
pub mod serve;
pub mod telemetry;

pub use app::App;
pub use config::Config;
pub use serve::Server;
