//! Captions: an image encoder, and a decoder that attends to what it gives.

use super::eyes::Eyes;
use super::{TextStream, Writer, WritingError, WritingFiles, WritingOptions};
use crate::Session;
use crate::generate::{Decoder, Prompt, Sampling};
use crate::tasks::image::Pixels;
use crate::tensor::Tensor;

/// Writes captions of pictures.
pub struct Captioner {
    eyes: Eyes,
    writer: Writer,
    /// The tokens that every caption begins with, unseen.
    start: Vec<u32>,
}

impl Captioner {
    /// Puts graphs and configuration together.
    ///
    /// # Errors
    /// [`WritingError`] names the file that is missing or does not fit.
    pub fn new(encoder: Session, decoder: Decoder, files: &WritingFiles<'_>) -> Result<Captioner, WritingError> {
        let eyes = Eyes::new(encoder, files)?;
        if !decoder.has_encoder() {
            return Err(WritingError::Incomplete("the decoder does not attend to an image".into()));
        }
        let writer = Writer::new(decoder, files)?;
        let start = vec![writer.settings.start()?];
        Ok(Captioner { eyes, writer, start })
    }

    /// How the folder says that tokens are chosen.
    ///
    /// # Errors
    /// [`WritingError::Sampling`] if what it says means nothing.
    pub fn sampling(&self) -> Result<Sampling, WritingError> {
        Ok(self.writer.settings.generation.sampling(0)?)
    }

    /// The decoder behind its texts.
    pub fn decoder(&self) -> &Decoder {
        &self.writer.decoder
    }

    /// `gpu` or `cpu`.
    pub fn device(&self) -> &'static str {
        self.writer.decoder.device()
    }

    /// What the decoder attends to, for a picture.
    pub async fn encode(&self, picture: &Pixels) -> Result<Tensor, WritingError> {
        Ok(self.eyes.see(picture, "last_hidden_state").await?.features)
    }

    /// Begins the caption of a picture.
    pub async fn caption(&self, picture: &Pixels, asked: &WritingOptions) -> Result<TextStream<'_>, WritingError> {
        self.caption_encoded(self.encode(picture).await?, asked).await
    }

    /// Begins the caption of what [`Captioner::encode`] gave.
    pub async fn caption_encoded(
        &self,
        encoded: Tensor,
        asked: &WritingOptions,
    ) -> Result<TextStream<'_>, WritingError> {
        let writer = &self.writer;
        let options = writer.settings.options(asked, self.start.len())?;
        let limit = writer.settings.limit(self.start.len(), &options);
        let state = writer.decoder.start(1, limit, vec![("encoder_hidden_states", encoded)]);
        let prompt = Prompt::from(self.start.clone());
        let pieces = writer.pieces(asked)?.without_leading_space();
        writer.begin(state, prompt, self.start.len(), options, asked, pieces).await
    }
}
