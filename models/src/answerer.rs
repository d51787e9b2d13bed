//! From a model folder to an answerer that runs.

use lenslet::onnx::ImportOptions;
use lenslet::tasks::writing::Answerer;
use lenslet::{Session, SessionOptions};

use crate::folder::{ModelFolder, Precision};
use crate::writing::{Beside, WriterError, decoder, graph_error};

const TASK: &str = "answer questions about pictures";

/// Loads what answers questions about pictures: an image encoder (`vision_encoder` or `encoder_model`), a decoder, and, where
/// the decoder takes embeddings, `embed_tokens`.
///
/// # Errors
/// [`WriterError`]; [`WriterError::Absent`] names the graph without which the model does not see or does not read.
pub fn load_answerer(
    folder: &ModelFolder,
    precision: Precision,
    options: &SessionOptions,
) -> Result<Answerer, WriterError> {
    let absent = |graph| WriterError::Absent { model: folder.name().to_owned(), graph, task: TASK };
    let open = |path: &std::path::Path, options: &SessionOptions| {
        Session::from_file(path, &ImportOptions::default(), options.clone()).map_err(graph_error(path))
    };
    let encoder = match folder.file("vision_encoder", precision)? {
        Some(path) => Some(path),
        None => folder.file("encoder_model", precision)?,
    };
    let encoder = open(&encoder.ok_or_else(|| absent("vision_encoder"))?, options)?;
    let mut decoder = decoder(folder, precision, options, TASK)?;
    if decoder.embedding_width().is_some() {
        let table = folder.file("embed_tokens", precision)?.ok_or_else(|| absent("embed_tokens"))?;
        // A row of a table is looked up on the host: the picture's rows are put between them there.
        let host = SessionOptions { gpu: None, ..options.clone() };
        decoder = decoder.embed_with(open(&table, &host)?).map_err(|e| WriterError::Writing(e.into()))?;
    }
    Ok(Answerer::new(encoder, decoder, &Beside::read(folder)?.files())?)
}
