//! Why a command ended early: what happened, what to do about it, and the exit status.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use lenslet::gpu::DeviceError;
use lenslet::tasks::dual_tower::TaskError;
use lenslet::tasks::image::ImageError;
use lenslet::tasks::index::IndexError;
use lenslet::tasks::writing::WritingError;
use lenslet_models::check::GoldenError;
use lenslet_models::client::ClientError;
use lenslet_models::dual::DualError;
use lenslet_models::folder::FolderError;
use lenslet_models::writing::WriterError;

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage, bad input or a machine that refuses.
    Input {
        /// What happened, in one line.
        what: String,
        /// What to do about it, in one line.
        advice: String,
        /// A stable name of the kind of error.
        kind: &'static str,
    },
    /// The user stopped it.
    Interrupted {
        /// What was kept.
        what: String,
        /// How to go on.
        advice: String,
    },
    /// The reader of the output went away, as `head` does: no error.
    ClosedPipe,
}

impl Failure {
    /// Bad usage or bad input.
    pub(crate) fn input(kind: &'static str, what: impl Display, advice: impl Into<String>) -> Self {
        Failure::Input { what: what.to_string(), advice: advice.into(), kind }
    }

    /// A file that cannot be read or written.
    pub(crate) fn io(path: &std::path::Path, source: &io::Error) -> Self {
        Self::input("io", format_args!("{}: {source}", path.display()), "check the path and its permissions")
    }

    /// A graph file that cannot be loaded.
    pub(crate) fn graph(path: &std::path::Path, source: &lenslet::Error) -> Self {
        let advice = match source.kind() {
            "not_onnx" | "bad_weight" => "download or export the model again",
            "unknown_operator" | "unsupported_node" | "unsupported_opset" => {
                "export the model another way (opset 17, without custom operators), or report it with its name"
            }
            "external_data_missing" => "put the weight file beside the model",
            "external_data_outside" => "do not use this file unless you know who made it",
            _ => "check the path; see `lenslet inspect` for what the model needs",
        };
        Self::input(source.kind(), format_args!("{}: {source}", path.display()), advice)
    }

    /// A picture file that cannot be used.
    pub(crate) fn picture(path: &std::path::Path, source: &ImageError) -> Self {
        let advice = match source.kind() {
            "image_too_large" => "scale the picture down first",
            "image_unknown_format" => "convert it to PNG or JPEG",
            _ => "check that the file opens elsewhere",
        };
        Self::input(source.kind(), format_args!("{}: {source}", path.display()), advice)
    }

    /// What a server says of a picture file.
    pub(crate) fn of_picture(path: &std::path::Path, error: ClientError) -> Self {
        if error.is_about_picture() {
            let what = format!("{}: {error}", path.display());
            return Self::input("server_rejected", what, "check that the file opens elsewhere, or convert it to PNG");
        }
        error.into()
    }

    /// Prints two lines to stderr and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        // If stderr is closed as well there is nobody left to tell.
        let say = |what: &str, advice: &str| {
            use io::Write as _;
            let _ = writeln!(io::stderr().lock(), "lenslet: {what}\n         {advice}");
        };
        match self {
            Failure::Input { what, advice, kind } => {
                say(&format!("{what} [{kind}]"), &advice);
                ExitCode::from(2)
            }
            Failure::Interrupted { what, advice } => {
                say(&what, &advice);
                ExitCode::from(130)
            }
            Failure::ClosedPipe => ExitCode::SUCCESS,
        }
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        Failure::input(error.kind(), &error, error.advice())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::input(error.kind(), &error, error.advice())
    }
}

impl From<DualError> for Failure {
    fn from(error: DualError) -> Self {
        match error {
            DualError::Folder(error) => error.into(),
            DualError::Graph { path, source } => Failure::graph(std::path::Path::new(&path), &source),
            DualError::Task(error) => error.into(),
            other => Failure::input(other.kind(), &other, "see `lenslet inspect` for what the model needs"),
        }
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        let advice = match &error {
            TaskError::Absent(_) => "choose a model that has it, with --model",
            TaskError::Run { .. } => "try --device cpu; if that fails too, report the model",
            TaskError::Config(_) | TaskError::Text(_) => "download the model again, or correct the file",
            _ => "see `lenslet inspect` for what the model needs",
        };
        Failure::input(error.kind(), &error, advice)
    }
}

impl From<WriterError> for Failure {
    fn from(error: WriterError) -> Self {
        match error {
            WriterError::Folder(error) => error.into(),
            WriterError::Graph { path, source } => Failure::graph(std::path::Path::new(&path), &source),
            WriterError::Writing(error) => error.into(),
            other => Failure::input(other.kind(), &other, "choose a model that does, with --model"),
        }
    }
}

impl From<WritingError> for Failure {
    fn from(error: WritingError) -> Self {
        let advice = match error.kind() {
            "context_full" => "shorten the prompt, or choose a model with a longer context",
            "vocabulary_mismatch" => "take tokenizer.json and the graph from the same model",
            "not_a_number" => "choose another --precision, or download the model again",
            "model_incomplete" | "not_a_decoder" => "see `lenslet inspect` for what the model is",
            "question_image_token" => "ask without it",
            "beams_and_temperature" => "leave out --beams or --temperature",
            kind if kind.starts_with("beam_") => "give --beams of at least 1 and a finite --length-penalty",
            "chat_missing" => "give a plain prompt with --raw",
            _ => "download the model again, or report it with its name",
        };
        Failure::input(error.kind(), &error, advice)
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        let advice = match &error {
            IndexError::Io { .. } => "check the path and its permissions",
            IndexError::NotAnIndex => "give a file that `lenslet index` wrote",
            IndexError::Fingerprint { .. } => "name the model with --model, or index again with --rebuild",
            IndexError::Truncated { .. } | IndexError::Checksum | IndexError::Damaged(_) => {
                "make it again with `lenslet index DIR -o FILE --rebuild`"
            }
            _ => "index again with --rebuild",
        };
        Failure::input(error.kind(), &error, advice)
    }
}

impl From<GoldenError> for Failure {
    fn from(error: GoldenError) -> Self {
        let advice = match error {
            GoldenError::Mismatch { .. } => "give the golden that belongs to this model",
            _ => "see `lenslet check --help` for the layout",
        };
        Failure::input(error.kind(), &error, advice)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Failure::input(
            error.kind(),
            &error,
            "install a Vulkan driver (Debian: mesa-vulkan-drivers), or use --device cpu",
        )
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::ClosedPipe
        } else {
            Failure::input("io", format_args!("cannot write the output: {error}"), "check where it goes")
        }
    }
}
