//! The server as clients see it: over connections to free ports.

mod browser;
mod chat;
mod clients;
mod embeddings;
#[cfg(feature = "grpc")]
mod grpc;
mod health;
mod hostile;
mod http;
#[cfg(feature = "nats")]
mod jobs;
mod oip;
mod operate;
mod ort;
mod program;
mod python;
mod remote;
mod restarts;
mod schedule;
mod setup;
#[cfg(feature = "tls")]
mod tls;
mod together;
#[cfg(feature = "otlp")]
mod traces;
