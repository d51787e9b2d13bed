//! From a model file to a session, in one call.

use crate::error::RunError;
use crate::generate::DecoderError;
#[cfg(not(target_arch = "wasm32"))]
use crate::onnx::ModelFile;
use crate::onnx::{ExternalData, ImportOptions, LoadError, import};
use crate::optimize::{OptimizeError, optimize};
use crate::{Session, SessionOptions};

/// Why a model could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read as a model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The graph could not be optimised.
    #[error(transparent)]
    Optimize(#[from] OptimizeError),
    /// The graph could not be planned or run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The graph is no decoder, or cannot go on.
    #[error(transparent)]
    Decoder(Box<DecoderError>),
}

impl From<DecoderError> for Error {
    fn from(error: DecoderError) -> Self {
        Error::Decoder(Box::new(error))
    }
}

impl Error {
    /// A stable name for programs: JavaScript error classes and HTTP statuses follow it.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Load(e) => e.kind(),
            Error::Optimize(e) => e.kind(),
            Error::Run(e) => e.kind(),
            Error::Decoder(e) => e.kind(),
        }
    }
}

impl Session {
    /// Reads, optimises and prepares an ONNX model.
    pub fn from_onnx(
        file: &[u8],
        data: &dyn ExternalData,
        import_options: &ImportOptions,
        options: SessionOptions,
    ) -> Result<Session, Error> {
        let mut graph = import(file, data, import_options)?;
        optimize(&mut graph)?;
        Ok(Session::new(graph, options))
    }

    /// Reads, optimises and prepares the ONNX model in the file at `path`, with its weight files beside it.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_file(
        path: &std::path::Path,
        import_options: &ImportOptions,
        options: SessionOptions,
    ) -> Result<Session, Error> {
        let file = ModelFile::open(path)?;
        Self::from_onnx(file.graph(), &file, import_options, options)
    }
}
