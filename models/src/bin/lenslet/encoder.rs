//! What turns pictures and texts into vectors: a model on this machine, or one on a server.

use std::path::Path;

use lenslet::tasks::classify::Scoring;
use lenslet::tasks::fingerprint::Fingerprint;
use lenslet_models::client::{Client, RemoteTower};
use lenslet_models::dual::DualModel;

use crate::context::{read_file, read_picture};
use crate::failure::Failure;

/// Gives vectors.
pub(crate) enum Encoder {
    /// A model that is loaded here.
    Here(Box<DualModel>),
    /// A model on a server.
    There(Remote),
}

/// A model on a server that gives vectors.
pub(crate) struct Remote {
    pub(crate) client: Client,
    pub(crate) tower: RemoteTower,
}

impl Remote {
    /// The vector of a picture file, which is sent as it is.
    pub(crate) fn picture(&self, path: &Path) -> Result<Vec<f32>, Failure> {
        self.client.embed_picture(&self.tower, &read_file(path)?).map_err(|error| Failure::of_picture(path, error))
    }
}

impl Encoder {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Here(model) => &model.name,
            Self::There(remote) => &remote.tower.name,
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Here(model) => model.fingerprint,
            Self::There(remote) => remote.tower.fingerprint,
        }
    }

    pub(crate) fn scoring(&self) -> Scoring {
        match self {
            Self::Here(model) => model.scoring,
            Self::There(remote) => remote.tower.scoring,
        }
    }

    /// The vector of one picture file.
    pub(crate) fn picture(&self, path: &Path) -> Result<Vec<f32>, Failure> {
        match self {
            Self::Here(model) => {
                let pixels = read_picture(path)?;
                let vectors = pollster::block_on(model.tower.encode_images(&[pixels]))?;
                Ok(vectors.into_iter().next().unwrap_or_default())
            }
            Self::There(remote) => remote.picture(path),
        }
    }

    /// The vector of one text.
    pub(crate) fn text(&self, text: &str) -> Result<Vec<f32>, Failure> {
        let vectors = match self {
            Self::Here(model) => pollster::block_on(model.tower.encode_texts(&[text]))?,
            Self::There(remote) => remote.client.embed_texts(&remote.tower, &[text])?,
        };
        Ok(vectors.into_iter().next().unwrap_or_default())
    }

    /// The vectors of texts that are to be compared with each other.
    pub(crate) fn texts(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, Failure> {
        match self {
            Self::Here(model) => Ok(pollster::block_on(async {
                model.tower.settle_padding().await?;
                model.tower.encode_texts(texts).await
            })?),
            Self::There(remote) => Ok(remote.client.embed_texts(&remote.tower, texts)?),
        }
    }
}
