//! What makes the vectors of an index: a model on this machine, or one on a server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lenslet::SessionOptions;
use lenslet::tasks::fingerprint::Fingerprint;
use lenslet::tasks::image::{PixelBatch, Preprocessor, decode};
use lenslet_models::dual::{DualModel, Need, fingerprint};
use lenslet_models::folder::ModelFolder;

use crate::context::{Context, ModelArgs, device_name};
use crate::encoder::Remote;
use crate::failure::Failure;

/// The model that is to make the index.
pub(crate) enum Source {
    Here { folder: Box<ModelFolder>, fingerprint: Fingerprint, options: SessionOptions },
    There(Remote),
}

impl Source {
    pub(crate) fn find(context: &Context, args: &ModelArgs) -> Result<Source, Failure> {
        if let Some(client) = context.client()? {
            return Ok(Source::There(args.remote(client)?));
        }
        let folder = Box::new(args.folder()?);
        let fingerprint = fingerprint(&folder, &folder.graphs(args.precision.into())?)?;
        Ok(Source::Here { folder, fingerprint, options: context.options()? })
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Source::Here { folder, .. } => folder.name(),
            Source::There(remote) => &remote.tower.name,
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        match self {
            Source::Here { fingerprint, .. } => *fingerprint,
            Source::There(remote) => remote.tower.fingerprint,
        }
    }

    pub(crate) fn device(&self) -> &str {
        match self {
            Source::Here { options, .. } => device_name(options),
            Source::There(remote) => remote.client.server(),
        }
    }

    pub(crate) fn load(&self, args: &ModelArgs) -> Result<Maker<'_>, Failure> {
        match self {
            Source::Here { folder, options, .. } => {
                let model = DualModel::load(folder, args.precision.into(), Need::Image, options)?;
                Ok(Maker::Here(Box::new(model)))
            }
            Source::There(remote) => Ok(Maker::There(remote)),
        }
    }
}

/// What makes vectors of picture files: in two steps, so that files are read and decoded beside the model's work.
pub(crate) enum Maker<'a> {
    Here(Box<DualModel>),
    There(&'a Remote),
}

/// A picture file after the first step.
pub(crate) enum Prepared {
    Pixels(PixelBatch),
    Vector(Vec<f32>),
}

/// Why there is no vector of a picture.
pub(crate) enum Trouble {
    /// The picture cannot be used; others may.
    Picture(String),
    /// Nothing goes on.
    Fatal(Failure),
}

impl Maker<'_> {
    pub(crate) fn prepare(&self, path: &Path, interrupted: &AtomicBool) -> Result<Prepared, Trouble> {
        match self {
            Maker::Here(model) => {
                let preprocessor = model.tower.preprocessor().ok_or_else(|| Trouble::Fatal(no_preprocessor()))?;
                prepare(preprocessor, path).map(Prepared::Pixels).map_err(Trouble::Picture)
            }
            Maker::There(remote) => ask(remote, path, interrupted).map(Prepared::Vector),
        }
    }

    pub(crate) fn vector(&self, prepared: Prepared) -> Result<Vec<f32>, Failure> {
        match (self, prepared) {
            (_, Prepared::Vector(vector)) => Ok(vector),
            // One at a time: dynamic INT8 finds one scale for a whole batch.
            (Maker::Here(model), Prepared::Pixels(pixels)) => {
                let vectors = pollster::block_on(model.tower.encode_pixels(pixels))?;
                Ok(vectors.into_iter().next().unwrap_or_default())
            }
            (Maker::There(_), Prepared::Pixels(_)) => Err(no_preprocessor()),
        }
    }

    /// Pictures that are worked on at once.
    pub(crate) fn threads(&self, context: &Context) -> usize {
        match self {
            Maker::Here(_) => context.threads(),
            Maker::There(_) => AT_ONCE,
        }
    }
}

fn no_preprocessor() -> Failure {
    Failure::input("config_missing", "the model has no preprocessor_config.json", "choose another with --model")
}

/// Pictures on their way to a server at once.
const AT_ONCE: usize = 8;

/// So often a busy server is asked again before that is given up.
const PATIENCE: usize = 8;

/// Has a server make a picture's vector. While it is busy, it is left alone for as long as it says.
fn ask(remote: &Remote, path: &Path, interrupted: &AtomicBool) -> Result<Vec<f32>, Trouble> {
    let file = std::fs::read(path).map_err(|error| Trouble::Picture(error.to_string()))?;
    let mut tries = 0;
    loop {
        match remote.client.embed_picture(&remote.tower, &file) {
            Ok(vector) => return Ok(vector),
            Err(error) if error.is_about_picture() => return Err(Trouble::Picture(error.to_string())),
            Err(error) => match error.retry_after() {
                Some(pause) if tries < PATIENCE && !interrupted.load(Ordering::Relaxed) => {
                    tries += 1;
                    std::thread::sleep(pause);
                }
                _ => return Err(Trouble::Fatal(error.into())),
            },
        }
    }
}

fn prepare(preprocessor: &Preprocessor, path: &Path) -> Result<PixelBatch, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let pixels = decode(&bytes).map_err(|error| error.to_string())?;
    preprocessor.process(&pixels).map_err(|error| error.to_string())
}
