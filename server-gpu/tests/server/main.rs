//! The server as clients see it: over connections to free ports.

mod chat;
mod embeddings;
mod health;
mod http;
mod oip;
mod ort;
mod python;
mod remote;
mod schedule;
mod setup;
