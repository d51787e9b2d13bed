//! Questions about pictures.
//!
//! Two kinds of models answer them. A unified decoder reads embeddings: the picture's features stand in its prompt, in the
//! place of image tokens. An encoder-decoder attends to the picture, and the question is what its text begins with. Both read
//! something first that depends on the picture alone. That part is kept for the last picture: another question about it
//! runs neither the image encoder nor that part of the prompt again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::eyes::{Eyes, Seen};
use super::image_prompt::ImagePrompt;
use super::{TextStream, Writer, WritingError, WritingFiles, WritingOptions};
use crate::Session;
#[cfg(feature = "chat")]
use crate::generate::{ChatOptions, ChatTemplate, Message, Part};
use crate::generate::{Decoder, Feed, Prompt, Sampling, State};
use crate::tasks::image::Pixels;
use crate::tensor::Tensor;

/// Answers questions about pictures.
pub struct Answerer {
    eyes: Eyes,
    writer: Writer,
    place: Place,
    #[cfg(feature = "chat")]
    chat: Option<ChatTemplate>,
    memory: Mutex<Memory>,
}

/// Where the decoder finds the picture.
enum Place {
    /// Among the embeddings of its prompt.
    Prompt(ImagePrompt),
    /// In what the encoder gave; texts begin with these tokens.
    Encoder(Vec<u32>),
}

/// What an [`Answerer`] computed before the questions themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Pictures that went through the image encoder.
    pub pictures_encoded: usize,
    /// Positions of prompts that were read up to the end of a picture.
    pub prefix_positions: usize,
}

#[derive(Default)]
struct Memory {
    kept: Option<Kept>,
    work: Work,
}

/// The last picture.
#[derive(Clone)]
struct Kept {
    /// SHA-256 of its pixels.
    picture: [u8; 32],
    seen: Seen,
    /// What was read up to its end, and the sequence behind that.
    prefix: Option<(Vec<u32>, State)>,
}

impl Answerer {
    /// Puts graphs and configuration together. A decoder that takes embeddings has its [`Decoder::embed_with`].
    ///
    /// # Errors
    /// [`WritingError`] names the file that is missing or does not fit.
    pub fn new(encoder: Session, decoder: Decoder, files: &WritingFiles<'_>) -> Result<Answerer, WritingError> {
        let incomplete = |what: &str| WritingError::Incomplete(what.into());
        let eyes = Eyes::new(encoder, files)?;
        let (attends, embeds) = (decoder.has_encoder(), decoder.embedding_width().is_some());
        if !decoder.takes_tokens() {
            return Err(incomplete("the decoder takes embeddings, and there is no graph of token embeddings"));
        }
        let writer = Writer::new(decoder, files)?;
        let place = if attends {
            Place::Encoder(vec![writer.settings.start()?])
        } else if embeds {
            Place::Prompt(ImagePrompt::new(files.model, files.tokenizer_config, &writer.settings.tokenizer)?)
        } else {
            return Err(incomplete("the decoder neither attends to a picture nor takes embeddings of one"));
        };
        Ok(Answerer {
            eyes,
            writer,
            place,
            #[cfg(feature = "chat")]
            chat: super::chat_template(files)?,
            memory: Mutex::default(),
        })
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

    /// What was computed so far for pictures and the prompts in front of questions.
    pub fn work(&self) -> Work {
        self.memory().work
    }

    /// Frees what is kept of the last picture.
    pub fn forget(&self) {
        self.memory().kept = None;
    }

    /// Begins the answer to a question about a picture.
    ///
    /// # Errors
    /// [`WritingError::ImageToken`] if the question contains what stands for a picture, and what preprocessing, encoder and
    /// decoder return.
    pub async fn ask(
        &self,
        picture: &Pixels,
        question: &str,
        asked: &WritingOptions,
    ) -> Result<TextStream<'_>, WritingError> {
        let (writer, decoder) = (&self.writer, &self.writer.decoder);
        let key = fingerprint(picture);
        let kept = self.memory().kept.clone().filter(|kept| kept.picture == key);
        let mut kept = match kept {
            Some(kept) => kept,
            None => {
                let output = if decoder.has_encoder() { "last_hidden_state" } else { "image_features" };
                let seen = self.eyes.see(picture, output).await?;
                self.memory().work.pictures_encoded += 1;
                Kept { picture: key, seen, prefix: None }
            }
        };
        let (tokens, split) = self.prompt(question, &kept.seen)?;
        let embeddings = self.embeddings(&tokens, split, &kept.seen).await?;
        let (head, tail) = tokens.split_at(split);
        let [before, behind] = match embeddings {
            Some(both) => both.map(Some),
            None => [None, None],
        };
        let options = writer.settings.options(asked, tokens.len())?;
        let (state, counted) = match kept.prefix {
            Some((ref read, ref state)) if read == head => (state.clone(), tail.len()),
            _ => {
                let encoder = match self.place {
                    Place::Encoder(_) => vec![("encoder_hidden_states", kept.seen.features.clone())],
                    Place::Prompt(_) => vec![],
                };
                // Room for every question that the context allows: the sequence serves them all.
                let mut state = decoder.start(1, writer.settings.context, encoder);
                state.reserve(tokens.len().saturating_add(options.max_new_tokens));
                if !head.is_empty() {
                    let feed = Feed { tokens: Some(head), embeddings: before, mask: None };
                    decoder.run(&mut state, feed).await?;
                }
                self.memory().work.prefix_positions += head.len();
                kept.prefix = Some((head.to_vec(), state.clone()));
                (state, tokens.len())
            }
        };
        self.memory().kept = Some(kept);
        let prompt = Prompt { tokens: tail.to_vec(), embeddings: behind, before: head.to_vec() };
        let pieces = writer.pieces(asked)?.without_leading_space();
        writer.begin(state, prompt, counted, options, asked, pieces).await
    }

    /// The tokens of a prompt, and how many of them the picture decides; at least one is left.
    fn prompt(&self, question: &str, seen: &Seen) -> Result<(Vec<u32>, usize), WritingError> {
        let place = match &self.place {
            Place::Encoder(start) => {
                let mut tokens = start.clone();
                tokens.extend(self.writer.settings.encode(question, false)?);
                // Without a question, the start is all there is to read.
                let split = start.len().min(tokens.len() - 1);
                return Ok((tokens, split));
            }
            Place::Prompt(place) => place,
        };
        if question.contains(&place.token) {
            return Err(WritingError::ImageToken { token: place.token.clone() });
        }
        let (text, special) = self.text(place, question)?;
        let (before, behind) = text.split_once(&place.token).ok_or_else(|| {
            WritingError::Incomplete(format!("the chat template leaves out the picture ({})", place.token))
        })?;
        let rows = seen.features.shape().iter().rev().skip(1).product::<usize>() / seen.squares.max(1);
        let picture = place.expansion(seen.grid, seen.squares, rows);
        let tokens = self.writer.settings.encode(&format!("{before}{picture}{behind}"), special)?;
        let end = tokens.iter().rposition(|t| *t == place.id).map_or(0, |at| at + 1);
        let split = end.min(tokens.len().saturating_sub(1));
        Ok((tokens, split))
    }

    /// The conversation with one image token, and whether the tokenizer adds special tokens to it.
    fn text(&self, place: &ImagePrompt, question: &str) -> Result<(String, bool), WritingError> {
        #[cfg(feature = "chat")]
        if let Some(chat) = &self.chat {
            let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
            let parts = Message::parts("user", vec![Part::Image, Part::Text(question.into())]);
            let rendered = chat.render(&[parts], &options);
            // Templates of older models take text alone, with the picture's token in it.
            let text = match rendered {
                Ok(text) if text.contains(&place.token) => text,
                _ => {
                    let plain = Message::text("user", format!("{}\n{question}", place.token));
                    chat.render(&[plain], &options)?
                }
            };
            return Ok((text, false));
        }
        Ok((format!("{}{question}", place.token), true))
    }

    /// The embeddings of a prompt, in two parts at `split`, with the picture's in the place of its tokens'. `None` where
    /// the decoder reads ids.
    async fn embeddings(&self, tokens: &[u32], split: usize, seen: &Seen) -> Result<Option<[Tensor; 2]>, WritingError> {
        let Place::Prompt(place) = &self.place else { return Ok(None) };
        let bad = |what: String| WritingError::Incomplete(what);
        let embedded = self.writer.decoder.embed(tokens, 1).await?;
        let (values, features) = (embedded.to_f32_vec(), seen.features.to_f32_vec());
        let (Some(mut values), Some(features)) = (values, features) else {
            return Err(bad("embeddings and image features must be numbers".into()));
        };
        let width = values.len() / tokens.len().max(1);
        if width == 0 || features.len() % width != 0 {
            let shape = seen.features.shape();
            return Err(bad(format!("image features of shape {shape:?} for embeddings of {width} numbers a token")));
        }
        let places = tokens.iter().filter(|t| **t == place.id).count();
        if places == 0 || places * width != features.len() {
            // Graphs drop squares that are all zero.
            let rows = features.len() / width;
            return Err(bad(format!("the image encoder gave {rows} rows for {places} image tokens")));
        }
        let slots = values.chunks_exact_mut(width).zip(tokens).filter(|(_, t)| **t == place.id);
        slots.zip(features.chunks_exact(width)).for_each(|((slot, _), row)| slot.copy_from_slice(row));
        let (before, behind) = values.split_at(split * width);
        let part = |values: &[f32]| {
            let tensor = Tensor::from_slice(&[1, values.len() / width, width], values);
            tensor.map_err(|e| bad(format!("the embeddings: {e}")))
        };
        Ok(Some([part(before)?, part(behind)?]))
    }

    /// A panic elsewhere leaves nothing half done in there.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells one picture from another.
fn fingerprint(picture: &Pixels) -> [u8; 32] {
    let mut hash = Sha256::new();
    for number in [picture.width(), picture.height(), picture.channels().count() as u32] {
        hash.update(number.to_le_bytes());
    }
    hash.update(picture.data());
    hash.finalize().into()
}
