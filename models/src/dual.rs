//! From a model folder to a dual tower that runs.

use std::path::Path;

use lenslet::onnx::ImportOptions;
use lenslet::tasks::classify::Scoring;
use lenslet::tasks::dual_tower::{DualTower, Graphs, TaskError};
use lenslet::tasks::fingerprint::Fingerprint;
use lenslet::tasks::tower::SessionTower;
use lenslet::{Session, SessionOptions};

use crate::folder::{FolderError, GraphFiles, ModelFolder, Precision, sha256_graph};

/// Why a dual tower cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DualError {
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
    /// Configuration, tokenizer or a run.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl DualError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Folder(error) => error.kind(),
            Self::Graph { source, .. } => source.kind(),
            Self::Task(error) => error.kind(),
        }
    }
}

/// Which towers a command needs: the others are not loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Pictures only.
    Image,
    /// Texts only.
    Text,
    /// Both.
    Both,
}

/// A dual tower with what identifies its vectors.
pub struct DualModel {
    /// Name of the model, see [`ModelFolder::name`].
    pub name: String,
    /// Identifies weights and preprocessing.
    pub fingerprint: Fingerprint,
    /// The towers.
    pub tower: DualTower<SessionTower>,
    /// How similarities become probabilities.
    pub scoring: Scoring,
}

impl DualModel {
    /// Loads the towers that are needed.
    ///
    /// # Errors
    /// [`DualError`].
    pub fn load(
        folder: &ModelFolder,
        precision: Precision,
        need: Need,
        options: &SessionOptions,
    ) -> Result<Self, DualError> {
        let files = folder.graphs(precision)?;
        let open = |path: &Path| -> Result<SessionTower, DualError> {
            let session = Session::from_file(path, &ImportOptions::default(), options.clone())
                .map_err(|source| DualError::Graph { path: path.display().to_string(), source })?;
            Ok(SessionTower::new(session))
        };
        let graphs = match &files {
            GraphFiles::Separate { image, text } => Graphs::Separate {
                image: image.as_deref().filter(|_| need != Need::Text).map(open).transpose()?,
                text: text.as_deref().filter(|_| need != Need::Image).map(open).transpose()?,
            },
            GraphFiles::Whole(path) => by_inputs(open(path)?),
        };
        let takes_text = match &graphs {
            Graphs::Separate { text, .. } => text.is_some(),
            Graphs::Joint(_) => need != Need::Image,
        };
        let mut tower = DualTower::new(graphs, folder.config())?;
        if takes_text {
            tower = tower.with_tokenizer(&folder.tokenizer()?, folder.config())?;
        }
        Ok(DualModel {
            name: folder.name().to_owned(),
            fingerprint: fingerprint(folder, &files)?,
            tower,
            scoring: Scoring::from_config(&folder.config().model),
        })
    }
}

/// A single graph is a joint one if it takes pictures and texts, else the tower of what it takes.
fn by_inputs(graph: SessionTower) -> Graphs<SessionTower> {
    let takes = |name: &str| graph.session().inputs().iter().any(|input| &*input.name == name);
    match (takes("pixel_values"), takes("input_ids")) {
        (true, true) => Graphs::Joint(graph),
        (false, true) => Graphs::Separate { image: None, text: Some(graph) },
        _ => Graphs::Separate { image: Some(graph), text: None },
    }
}

/// What identifies the vectors of a model in one precision, without loading it.
///
/// # Errors
/// [`DualError`] if a file cannot be read.
pub fn fingerprint(folder: &ModelFolder, files: &GraphFiles) -> Result<Fingerprint, DualError> {
    let mut builder = Fingerprint::builder();
    for (role, path) in files.all() {
        let role = match role {
            crate::folder::Role::Image => "vision_model",
            crate::folder::Role::Text => "text_model",
            crate::folder::Role::Whole => "model",
        };
        builder = builder.file(role, sha256_graph(path)?);
    }
    let nothing: Graphs<SessionTower> = Graphs::Separate { image: None, text: None };
    let facts = DualTower::new(nothing, folder.config())?.facts();
    Ok(builder.facts("preprocessing", &facts).finish())
}
