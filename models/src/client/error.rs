//! What can go wrong with a server.

use std::time::Duration;

/// Why a server did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No address of a server.
    #[error("{0:?} is no address of a server; write http://host:port")]
    Address(String),
    /// An address that this build cannot speak to.
    #[error("{0}: this build speaks plain HTTP only")]
    NoHttps(String),
    /// Nobody answers there, or the answer breaks off.
    #[error("{server} cannot be reached: {why}")]
    Unreachable {
        /// The server.
        server: String,
        /// What the connection says.
        why: String,
    },
    /// It takes too long.
    #[error("{server} does not answer within {seconds} s")]
    Timeout {
        /// The server.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It wants a key, or another one.
    #[error("{server} refuses the key: {message}")]
    Refused {
        /// The server.
        server: String,
        /// What it says.
        message: String,
    },
    /// It has no such model.
    #[error("{server} has no model {model}; it has {known}")]
    NoModel {
        /// The server.
        server: String,
        /// What was asked for.
        model: String,
        /// What it has.
        known: String,
    },
    /// Its model does something else.
    #[error("{model} on {server} does not {task}")]
    Task {
        /// The server.
        server: String,
        /// The model.
        model: String,
        /// What was asked for.
        task: &'static str,
    },
    /// It has too much to do.
    #[error("{server} is busy{}", wait(*.retry_after))]
    Overloaded {
        /// The server.
        server: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It is starting or ending.
    #[error("{server} is not ready{}", wait(*.retry_after))]
    Unavailable {
        /// The server.
        server: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It does not take the request.
    #[error("{message}")]
    Rejected {
        /// The server's name for it.
        code: String,
        /// What it says.
        message: String,
    },
    /// It failed, or says what nobody understands.
    #[error("{server}: {message}")]
    Failed {
        /// The server.
        server: String,
        /// What happened.
        message: String,
    },
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |time| format!("; it wants to be asked again in {} s", time.as_secs()))
}

impl ClientError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) => "server_address",
            Self::NoHttps(_) => "server_https",
            Self::Unreachable { .. } => "server_unreachable",
            Self::Timeout { .. } => "server_timeout",
            Self::Refused { .. } => "server_refused",
            Self::NoModel { .. } => "server_no_model",
            Self::Task { .. } => "model_task",
            Self::Overloaded { .. } => "server_overloaded",
            Self::Unavailable { .. } => "server_unavailable",
            Self::Rejected { .. } => "server_rejected",
            Self::Failed { .. } => "server_failed",
        }
    }

    /// What to do about it, in one line.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Address(_) => "write --device server:http://host:port",
            Self::NoHttps(_) => "build with --features https, or put a proxy that has HTTPS in front",
            Self::Unreachable { .. } | Self::Timeout { .. } => "check the address and that lenslet-server runs there",
            Self::Refused { .. } => "put the key into the environment: LENSLET_API_KEY",
            Self::NoModel { .. } | Self::Task { .. } => "name one that it has, with --model",
            Self::Overloaded { .. } | Self::Unavailable { .. } => "try again later, or use --device auto",
            Self::Rejected { .. } => "change what is asked for",
            Self::Failed { .. } => "look into the server's log",
        }
    }

    /// Whether the same request may succeed later.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Some(retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => None,
        }
    }

    /// Whether it is the picture that cannot be used.
    pub fn is_about_picture(&self) -> bool {
        matches!(self, Self::Rejected { code, .. } if code.starts_with("image_"))
    }
}
