//! Model folders: where they lie and which graph file holds which tower.
//!
//! A folder has the shape that models on the Hugging Face hub have: `config.json`, `preprocessor_config.json`, tokenizer
//! files, and graphs in `onnx/` or at the top. Which file to load follows from the files that are there.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lenslet::tasks::config::{ConfigError, ConfigFiles, FolderConfig};
use sha2::{Digest as _, Sha256};

use crate::catalog;

/// Names the folder that holds model folders, before all other places.
pub const MODELS_VARIABLE: &str = "LENSLET_MODELS";

/// Why a model cannot be found or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Neither a catalog name nor a folder.
    #[error("there is no model {0:?}: it is no folder, and known names are {known}", known = known_names())]
    Unknown(String),
    /// A catalog name whose folder is not on this machine.
    #[error("the folder of {name} was not found; looked in {looked}", looked = list_paths(.looked))]
    NotInstalled {
        /// The model.
        name: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// A model on the hub: this version does not download.
    #[error("{0:?} names a model on the Hugging Face hub, and this version does not download")]
    Hub(String),
    /// No graph file where one should be.
    #[error(
        "{0} holds no graph: neither vision_model*.onnx and text_model*.onnx nor model*.onnx, at its top or in onnx/"
    )]
    NoGraph(PathBuf),
    /// No graph in the precision asked for.
    #[error("{model} has no {role} in {precision}; it has {available}")]
    Precision {
        /// The model.
        model: String,
        /// The part of it.
        role: Role,
        /// What was asked for.
        precision: Precision,
        /// File names that there are.
        available: String,
    },
    /// A file that the model needs.
    #[error("{model} has no {file}")]
    Missing {
        /// The model.
        model: String,
        /// The file, relative to the folder.
        file: &'static str,
    },
    /// A configuration file.
    #[error("{path}: {source}")]
    Config {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FolderError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "model_unknown",
            Self::NotInstalled { .. } => "model_not_installed",
            Self::Hub(_) => "model_on_hub",
            Self::NoGraph(_) => "model_no_graph",
            Self::Precision { .. } => "model_precision",
            Self::Missing { .. } => "model_file_missing",
            Self::Config { source, .. } => source.kind(),
            Self::Io { .. } => "io",
        }
    }

    /// What to do about it, in one line.
    pub fn advice(&self) -> String {
        match self {
            Self::Unknown(_) => "give a known name, or the path of a folder with config.json and onnx/*.onnx".into(),
            Self::NotInstalled { .. } => format!("set {MODELS_VARIABLE} to the folder that holds it"),
            Self::Hub(spec) => {
                let repository = spec.trim_start_matches("hf:").split('@').next().unwrap_or_default();
                format!(
                    "download it (git clone https://huggingface.co/{repository}, with git-lfs) and give the folder's path"
                )
            }
            Self::NoGraph(_) => "export the model to ONNX (optimum-cli export onnx), or give another folder".into(),
            Self::Precision { .. } => "choose another --precision, or leave it out".into(),
            Self::Missing { .. } => "copy the file from where the model was published".into(),
            Self::Config { .. } => "download the model again, or correct the file".into(),
            Self::Io { .. } => "check the path and its permissions".into(),
        }
    }
}

fn known_names() -> String {
    catalog::entries().iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn list_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The number format of a graph's weights, by the suffixes that exporters give file names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// The most exact that the folder has.
    #[default]
    Auto,
    /// No suffix.
    Fp32,
    /// `_fp16`
    Fp16,
    /// `_quantized`, `_int8`, `_uint8`, `_qdq`
    Int8,
    /// `_q4`, `_q4f16`
    Q4,
}

impl Precision {
    /// Those that name a format.
    pub const NAMED: [Precision; 4] = [Self::Fp32, Self::Fp16, Self::Int8, Self::Q4];

    /// Suffixes of file names, best first.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Auto => &["", "_fp16", "_quantized", "_int8", "_uint8", "_qdq", "_q4", "_q4f16"],
            Self::Fp32 => &[""],
            Self::Fp16 => &["_fp16"],
            Self::Int8 => &["_quantized", "_int8", "_uint8", "_qdq"],
            Self::Q4 => &["_q4", "_q4f16"],
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "any precision",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Q4 => "q4",
        })
    }
}

/// What a graph file is to its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `vision_model`: pictures to vectors.
    Image,
    /// `text_model`: texts to vectors.
    Text,
    /// `model`: everything in one graph.
    Whole,
}

impl Role {
    fn stem(self) -> &'static str {
        match self {
            Self::Image => "vision_model",
            Self::Text => "text_model",
            Self::Whole => "model",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image tower",
            Self::Text => "text tower",
            Self::Whole => "graph",
        })
    }
}

/// The graph files to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphFiles {
    /// One file a tower; either may be absent.
    Separate {
        /// Takes pictures.
        image: Option<PathBuf>,
        /// Takes texts.
        text: Option<PathBuf>,
    },
    /// One file.
    Whole(PathBuf),
}

impl GraphFiles {
    /// All of them, with their roles.
    pub fn all(&self) -> Vec<(Role, &Path)> {
        match self {
            Self::Separate { image, text } => {
                let image = image.iter().map(|path| (Role::Image, path.as_path()));
                image.chain(text.iter().map(|path| (Role::Text, path.as_path()))).collect()
            }
            Self::Whole(path) => vec![(Role::Whole, path)],
        }
    }
}

/// A model on disk.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    name: String,
    path: PathBuf,
    config: FolderConfig,
}

impl ModelFolder {
    /// Finds a model by a catalog name or the path of its folder.
    ///
    /// # Errors
    /// [`FolderError`]; a hub name (`hf:org/name`) is [`FolderError::Hub`].
    pub fn locate(spec: &str) -> Result<Self, FolderError> {
        if spec.starts_with("hf:") {
            return Err(FolderError::Hub(spec.to_owned()));
        }
        if catalog::find(spec).is_some() {
            let looked: Vec<PathBuf> = model_roots().into_iter().map(|root| root.join(spec)).collect();
            return match looked.iter().find(|path| path.is_dir()) {
                Some(path) => Self::read(spec, path),
                None => Err(FolderError::NotInstalled { name: spec.to_owned(), looked }),
            };
        }
        let path = Path::new(spec);
        if !path.is_dir() {
            return Err(FolderError::Unknown(spec.to_owned()));
        }
        // The absolute path, so that an index finds its model from every working directory.
        let path = path.canonicalize().map_err(|source| FolderError::Io { path: path.into(), source })?;
        Self::read(&path.display().to_string(), &path)
    }

    fn read(name: &str, path: &Path) -> Result<Self, FolderError> {
        let mut contents: Vec<Option<Vec<u8>>> = Vec::new();
        for file in ConfigFiles::NAMES {
            contents.push(read_optional(&path.join(file))?);
        }
        let [model, preprocessor, tokenizer, sentence, pooling, special_tokens] =
            std::array::from_fn(|i| contents[i].as_deref());
        let files = ConfigFiles { model, preprocessor, tokenizer, sentence, pooling, special_tokens };
        let config =
            FolderConfig::parse(&files).map_err(|source| FolderError::Config { path: path.to_owned(), source })?;
        Ok(ModelFolder { name: name.to_owned(), path: path.to_owned(), config })
    }

    /// The catalog name, or the folder's absolute path: [`ModelFolder::locate`] finds the model by it again.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the configuration files say.
    pub fn config(&self) -> &FolderConfig {
        &self.config
    }

    /// The bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// [`FolderError::Missing`] or [`FolderError::Io`].
    pub fn tokenizer(&self) -> Result<Vec<u8>, FolderError> {
        read_optional(&self.path.join("tokenizer.json"))?
            .ok_or_else(|| FolderError::Missing { model: self.name.clone(), file: "tokenizer.json" })
    }

    /// The bytes of a file that may be absent.
    ///
    /// # Errors
    /// [`FolderError::Io`] if it is there and cannot be read.
    pub fn optional(&self, file: &str) -> Result<Option<Vec<u8>>, FolderError> {
        read_optional(&self.path.join(file))
    }

    /// The graph file whose name begins with `stem`, in this precision; `None` if there is none in any.
    ///
    /// # Errors
    /// [`FolderError::Precision`].
    pub fn file(&self, stem: &'static str, precision: Precision) -> Result<Option<PathBuf>, FolderError> {
        self.graph_of(stem, Role::Whole, precision)
    }

    /// The graph files in this precision: separate towers where the folder has them, else one graph.
    ///
    /// # Errors
    /// [`FolderError::NoGraph`] and [`FolderError::Precision`].
    pub fn graphs(&self, precision: Precision) -> Result<GraphFiles, FolderError> {
        let image = self.graph(Role::Image, precision)?;
        let text = self.graph(Role::Text, precision)?;
        if image.is_some() || text.is_some() {
            return Ok(GraphFiles::Separate { image, text });
        }
        match self.graph(Role::Whole, precision)? {
            Some(path) => Ok(GraphFiles::Whole(path)),
            None => Err(FolderError::NoGraph(self.path.clone())),
        }
    }

    /// `None` if the folder has no such graph in any precision.
    fn graph(&self, role: Role, precision: Precision) -> Result<Option<PathBuf>, FolderError> {
        self.graph_of(role.stem(), role, precision)
    }

    fn graph_of(&self, stem: &str, role: Role, precision: Precision) -> Result<Option<PathBuf>, FolderError> {
        let find = |suffix: &str| {
            let file = format!("{stem}{suffix}.onnx");
            [self.path.join("onnx").join(&file), self.path.join(&file)].into_iter().find(|path| path.is_file())
        };
        if let Some(path) = precision.suffixes().iter().find_map(|suffix| find(suffix)) {
            return Ok(Some(path));
        }
        let available: Vec<String> = Precision::Auto
            .suffixes()
            .iter()
            .filter_map(|suffix| find(suffix))
            .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
            .collect();
        if available.is_empty() {
            return Ok(None);
        }
        let available = available.join(", ");
        Err(FolderError::Precision { model: self.name.clone(), role, precision, available })
    }
}

/// Folders that hold model folders, in the order in which they are searched.
fn model_roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    if let Some(root) = std::env::var_os(MODELS_VARIABLE).filter(|value| !value.is_empty()) {
        roots.push(PathBuf::from(root));
    }
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        roots.push(folder.join("models"));
    }
    // The source tree that this program was built from.
    roots.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled"));
    roots
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, FolderError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(FolderError::Io { path: path.to_owned(), source }),
    }
}

/// The SHA-256 of a file's bytes.
///
/// # Errors
/// [`FolderError::Io`].
pub fn sha256_file(path: &Path) -> Result<[u8; 32], FolderError> {
    let mut hash = Sha256::new();
    update(&mut hash, path).map_err(|source| FolderError::Io { path: path.to_owned(), source })?;
    Ok(hash.finalize().into())
}

/// The SHA-256 of a graph file and of the weight files that exporters put beside it.
///
/// # Errors
/// [`FolderError::Io`].
pub fn sha256_graph(path: &Path) -> Result<[u8; 32], FolderError> {
    let mut hash = Sha256::new();
    update(&mut hash, path).map_err(|source| FolderError::Io { path: path.to_owned(), source })?;
    for suffix in ["_data", ".data"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        let beside = PathBuf::from(beside);
        if beside.is_file() {
            update(&mut hash, &beside).map_err(|source| FolderError::Io { path: beside, source })?;
        }
    }
    Ok(hash.finalize().into())
}

fn update(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, files: &[&str]) -> Self {
            let path = std::env::temp_dir().join(format!("lenslet-folder-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("onnx")).unwrap();
            for file in files {
                std::fs::write(path.join(file), b"").unwrap();
            }
            Scratch(path)
        }

        fn open(&self) -> ModelFolder {
            ModelFolder::locate(self.0.to_str().unwrap()).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn names(graphs: &GraphFiles) -> Vec<String> {
        graphs.all().iter().map(|(_, path)| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn towers_go_before_the_joint_graph_and_exact_before_small() {
        let files = [
            "onnx/vision_model.onnx",
            "onnx/vision_model_quantized.onnx",
            "onnx/text_model_fp16.onnx",
            "onnx/text_model_int8.onnx",
            "onnx/model.onnx",
        ];
        let scratch = Scratch::new("towers", &files);
        let folder = scratch.open();
        assert_eq!(names(&folder.graphs(Precision::Auto).unwrap()), ["vision_model.onnx", "text_model_fp16.onnx"]);
        let int8 = folder.graphs(Precision::Int8).unwrap();
        assert_eq!(names(&int8), ["vision_model_quantized.onnx", "text_model_int8.onnx"]);
        let error = folder.graphs(Precision::Fp32).unwrap_err();
        assert_eq!(error.kind(), "model_precision");
        assert!(error.to_string().contains("text_model_fp16.onnx, text_model_int8.onnx"), "{error}");
    }

    #[test]
    fn a_single_graph_may_lie_at_the_top() {
        let scratch = Scratch::new("top", &["model_q4.onnx"]);
        let graphs = scratch.open().graphs(Precision::Auto).unwrap();
        assert!(matches!(&graphs, GraphFiles::Whole(_)));
        assert_eq!(names(&graphs), ["model_q4.onnx"]);
        let empty = Scratch::new("empty", &[]);
        assert_eq!(empty.open().graphs(Precision::Auto).unwrap_err().kind(), "model_no_graph");
    }

    #[test]
    fn names_that_are_no_model_say_what_to_do() {
        let unknown = ModelFolder::locate("no-such-model").unwrap_err();
        assert_eq!(unknown.kind(), "model_unknown");
        assert!(unknown.to_string().contains("photo-search"), "{unknown}");
        let hub = ModelFolder::locate("hf:org/name@main").unwrap_err();
        assert_eq!(hub.kind(), "model_on_hub");
        assert!(hub.advice().contains("huggingface.co/org/name,"), "{}", hub.advice());
    }

    #[test]
    fn catalog_names_are_found() {
        for entry in catalog::entries() {
            let folder = ModelFolder::locate(&entry.name).unwrap();
            assert_eq!(folder.name(), entry.name);
            let parts = match entry.task.as_str() {
                "image-to-text" => ["encoder_model", "decoder_model_merged"],
                _ => ["vision_model", "text_model"],
            };
            assert!(parts.iter().all(|part| folder.file(part, Precision::Auto).unwrap().is_some()), "{}", entry.name);
        }
    }
}
