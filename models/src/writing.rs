//! From a model folder to a captioner or a text generator that runs.

use std::path::{Path, PathBuf};

use lenslet::generate::Decoder;
use lenslet::onnx::{Folder, ImportOptions, ModelFile};
use lenslet::tasks::writing::{Captioner, TextGenerator, WritingError, WritingFiles};
use lenslet::{Session, SessionOptions};

use crate::folder::{FolderError, ModelFolder, Precision};

/// Why a captioner or text generator cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriterError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A graph file.
    #[error("{path}: {source}")]
    Graph {
        /// The file.
        path: String,
        /// What is wrong.
        source: lenslet::Error,
    },
    /// The folder has no graph for this task.
    #[error("{model} has no {graph}*.onnx, at its top or in onnx/: it does not {task}")]
    Absent {
        /// The model.
        model: String,
        /// How the file's name begins.
        graph: &'static str,
        /// What cannot be done without it.
        task: &'static str,
    },
    /// Configuration or tokenizer.
    #[error(transparent)]
    Writing(#[from] WritingError),
}

impl WriterError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Folder(error) => error.kind(),
            Self::Graph { source, .. } => source.kind(),
            Self::Absent { .. } => "model_task",
            Self::Writing(error) => error.kind(),
        }
    }
}

/// The bytes of the files beside a decoder.
pub struct Beside {
    model: Option<Vec<u8>>,
    generation: Option<Vec<u8>>,
    tokenizer: Vec<u8>,
    tokenizer_config: Option<Vec<u8>>,
    special_tokens: Option<Vec<u8>>,
    chat_template: Option<Vec<u8>>,
    chat_template_json: Option<Vec<u8>>,
    preprocessor: Option<Vec<u8>>,
}

impl Beside {
    /// Reads those that are there.
    ///
    /// # Errors
    /// [`FolderError::Missing`] without a tokenizer, and [`FolderError::Io`].
    pub fn read(folder: &ModelFolder) -> Result<Beside, FolderError> {
        Ok(Beside {
            model: folder.optional("config.json")?,
            generation: folder.optional("generation_config.json")?,
            tokenizer: folder.tokenizer()?,
            tokenizer_config: folder.optional("tokenizer_config.json")?,
            special_tokens: folder.optional("special_tokens_map.json")?,
            chat_template: folder.optional("chat_template.jinja")?,
            chat_template_json: folder.optional("chat_template.json")?,
            preprocessor: folder.optional("preprocessor_config.json")?,
        })
    }

    /// The files, as the runtime takes them.
    pub fn files(&self) -> WritingFiles<'_> {
        WritingFiles {
            model: self.model.as_deref(),
            generation: self.generation.as_deref(),
            tokenizer: &self.tokenizer,
            tokenizer_config: self.tokenizer_config.as_deref(),
            special_tokens: self.special_tokens.as_deref(),
            chat_template: self.chat_template.as_deref(),
            chat_template_json: self.chat_template_json.as_deref(),
            preprocessor: self.preprocessor.as_deref(),
        }
    }
}

pub(crate) fn graph_error(path: &Path) -> impl Fn(lenslet::Error) -> WriterError {
    let path = path.display().to_string();
    move |source| WriterError::Graph { path: path.clone(), source }
}

fn open(path: &Path) -> Result<ModelFile<'static>, WriterError> {
    ModelFile::open(path).map_err(|error| graph_error(path)(error.into()))
}

/// The decoder of a folder: a merged file, two files, or a model that is nothing but a decoder.
pub(crate) fn decoder(
    folder: &ModelFolder,
    precision: Precision,
    options: &SessionOptions,
    task: &'static str,
) -> Result<Decoder, WriterError> {
    let one = |path: &PathBuf| -> Result<Decoder, WriterError> {
        let file = open(path)?;
        Decoder::from_onnx(file.graph(), &file, options.clone()).map_err(graph_error(path))
    };
    if let Some(path) = folder.file("decoder_model_merged", precision)? {
        return one(&path);
    }
    let pair = (folder.file("decoder_model", precision)?, folder.file("decoder_with_past_model", precision)?);
    if let (Some(first), Some(next)) = pair {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| FolderError::Io { path: path.to_owned(), source });
        let beside = Folder(next.parent().map(Path::to_path_buf).unwrap_or_default());
        return Decoder::from_onnx_pair(&read(&first)?, &read(&next)?, &beside, options.clone())
            .map_err(graph_error(&next));
    }
    match folder.file("model", precision)? {
        Some(path) => one(&path),
        None => Err(WriterError::Absent { model: folder.name().to_owned(), graph: "decoder_model_merged", task }),
    }
}

/// Loads a captioner.
///
/// # Errors
/// [`WriterError`].
pub fn load_captioner(
    folder: &ModelFolder,
    precision: Precision,
    options: &SessionOptions,
) -> Result<Captioner, WriterError> {
    const TASK: &str = "caption pictures";
    let Some(path) = folder.file("encoder_model", precision)? else {
        return Err(WriterError::Absent { model: folder.name().to_owned(), graph: "encoder_model", task: TASK });
    };
    let encoder = Session::from_file(&path, &ImportOptions::default(), options.clone()).map_err(graph_error(&path))?;
    let decoder = decoder(folder, precision, options, TASK)?;
    Ok(Captioner::new(encoder, decoder, &Beside::read(folder)?.files())?)
}

/// Loads a text generator.
///
/// # Errors
/// [`WriterError`].
pub fn load_text_generator(
    folder: &ModelFolder,
    precision: Precision,
    options: &SessionOptions,
) -> Result<TextGenerator, WriterError> {
    let decoder = decoder(folder, precision, options, "write text")?;
    Ok(TextGenerator::new(decoder, &Beside::read(folder)?.files())?)
}
