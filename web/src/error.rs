//! Errors as JavaScript sees them: an `Error` with the `name` of its class in `web/ts/errors.ts` and
//! the `kind` that the runtime gave it.

use js_sys::Reflect;
use lenslet::generate::{ChatError, DecoderError, SamplingError};
use lenslet::gpu::DeviceError;
use lenslet::tasks::config::ConfigError;
use lenslet::tasks::dual_tower::TaskError;
use lenslet::tasks::fingerprint::ParseFingerprintError;
use lenslet::tasks::image::ImageError;
use lenslet::tasks::index::IndexError;
use lenslet::tasks::text::TextError;
use lenslet::tasks::writing::WritingError;
use wasm_bindgen::JsValue;

/// The class that an error becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Load,
    Run,
    Unsupported,
    Index,
    Picture,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "LoadError",
            Self::Run => "RunError",
            Self::Unsupported => "UnsupportedError",
            Self::Index => "IndexError",
            Self::Picture => "PictureError",
        }
    }
}

/// Anything that an exported function throws.
#[derive(Debug)]
pub(crate) struct WebError {
    class: Class,
    kind: String,
    message: String,
}

impl WebError {
    fn new(class: Class, kind: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self { class, kind: kind.into(), message: chain(error) }
    }

    /// The caller's own mistake or a folder that is not a model.
    pub(crate) fn load(kind: &str, message: impl Into<String>) -> Self {
        Self { class: Class::Load, kind: kind.into(), message: message.into() }
    }

    /// A call that came too late or with values that fit nothing.
    pub(crate) fn run(kind: &str, message: impl Into<String>) -> Self {
        Self { class: Class::Run, ..Self::load(kind, message) }
    }

    /// Says which file it was.
    pub(crate) fn in_file(mut self, name: &str) -> Self {
        self.message = format!("{name}: {}", self.message);
        self
    }
}

/// The error with its causes, as far as they add something.
fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        next = cause.source();
    }
    message
}

impl From<WebError> for JsValue {
    fn from(error: WebError) -> Self {
        let thrown = js_sys::Error::new(&error.message);
        thrown.set_name(error.class.name());
        // Setting a property of a fresh object cannot fail.
        let _ = Reflect::set(&thrown, &"kind".into(), &error.kind.as_str().into());
        thrown.into()
    }
}

impl From<lenslet::Error> for WebError {
    fn from(error: lenslet::Error) -> Self {
        let class = match error {
            lenslet::Error::Run(_) => Class::Run,
            _ => Class::Load,
        };
        Self::new(class, error.kind(), &error)
    }
}

impl From<DeviceError> for WebError {
    fn from(error: DeviceError) -> Self {
        Self::new(Class::Unsupported, error.kind(), &error)
    }
}

impl From<ConfigError> for WebError {
    fn from(error: ConfigError) -> Self {
        Self::new(Class::Load, error.kind(), &error)
    }
}

impl From<ParseFingerprintError> for WebError {
    fn from(error: ParseFingerprintError) -> Self {
        Self::new(Class::Index, error.kind(), &error)
    }
}

impl From<IndexError> for WebError {
    fn from(error: IndexError) -> Self {
        Self::new(Class::Index, error.kind(), &error)
    }
}

impl From<ImageError> for WebError {
    fn from(error: ImageError) -> Self {
        Self::new(Class::Picture, error.kind(), &error)
    }
}

impl From<TaskError> for WebError {
    fn from(error: TaskError) -> Self {
        let class = match &error {
            TaskError::Image { .. } => Class::Picture,
            TaskError::Config(_) => Class::Load,
            _ => Class::Run,
        };
        Self::new(class, error.kind(), &error)
    }
}

impl From<WritingError> for WebError {
    fn from(error: WritingError) -> Self {
        let class = match &error {
            WritingError::Image(_) => Class::Picture,
            WritingError::Config(_)
            | WritingError::Incomplete(_)
            | WritingError::Text(TextError::Load(_))
            | WritingError::Sampling(SamplingError::Parse(_))
            | WritingError::Chat(ChatError::File { .. } | ChatError::Syntax(_))
            | WritingError::Decoder(DecoderError::NotADecoder(_) | DecoderError::Vocabulary { .. }) => Class::Load,
            _ => Class::Run,
        };
        Self::new(class, error.kind(), &error)
    }
}
