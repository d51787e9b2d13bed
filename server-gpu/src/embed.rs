//! From one thing to its vector, whichever way it came: with a request that waits, or as a part of a job.

use std::sync::Arc;

use bytes::Bytes;
use lenslet::tasks::text::Padding;
use lenslet::tasks::tokens::TokenBatch;

use crate::api::picture;
use crate::app::App;
use crate::cache::{self, Embedding, Key};
use crate::error::{Reason, ServeError};
use crate::hosted::Hosted;

/// One thing to embed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// Words.
    Text(String),
    /// Words as the client's tokenizer cut them.
    Tokens(Vec<u32>),
    /// A picture's file.
    Picture(Bytes),
    /// The SHA-256 of a picture's file that may be known here.
    PictureHash([u8; 32]),
}

/// The vector of a picture that was seen before.
pub(crate) async fn known(app: &App, model: &Hosted, digest: &[u8; 32]) -> Option<Arc<Embedding>> {
    app.cache.get(&key(model, cache::Input::Picture, digest)).await
}

fn key(model: &Hosted, kind: cache::Input, digest: &[u8; 32]) -> Key {
    cache::key(&model.fingerprint, model.engine.name(), kind, digest)
}

/// The vector of an input, from the cache or through the queue of its tower.
pub(crate) async fn embed(app: &Arc<App>, model: &Arc<Hosted>, input: Input) -> Result<Arc<Embedding>, ServeError> {
    match input {
        Input::Text(text) => {
            let key = key(model, cache::Input::Text, &cache::digest(text.as_bytes()));
            embed_words(app, model, key, &Words::Text(text)).await
        }
        Input::Tokens(ids) => {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            let key = key(model, cache::Input::Tokens, &cache::digest(&bytes));
            embed_words(app, model, key, &Words::Ids(ids)).await
        }
        Input::Picture(bytes) => {
            let key = key(model, cache::Input::Picture, &cache::digest(&bytes));
            embed_picture(app, model, key, bytes).await
        }
        Input::PictureHash(digest) => {
            // It was there a moment ago.
            known(app, model, &digest).await.ok_or_else(|| {
                ServeError::new(Reason::NotFound, "content_not_cached", "this picture is not known here")
            })
        }
    }
}

async fn embed_picture(
    app: &Arc<App>,
    model: &Arc<Hosted>,
    key: Key,
    file: Bytes,
) -> Result<Arc<Embedding>, ServeError> {
    let compute = || async {
        let (held, file, most) = (model.clone(), file.clone(), app.config.limits.max_pixels);
        let prepare = move || {
            let preprocessor = held.preprocessor()?;
            let pixels = picture::decoded(&file, most)?;
            preprocessor.process(&pixels).map_err(|e| ServeError::bad_request(e.kind(), e.to_string()))
        };
        let pixels = app.pool.run(prepare).await?;
        Ok(Embedding { values: model.embed_pixels(pixels).await?, tokens: 0 })
    };
    app.cache.get_or_compute(key, compute).await
}

/// A text, or the ids that a client's own tokenizer made of one.
#[derive(Clone)]
enum Words {
    Text(String),
    Ids(Vec<u32>),
}

impl Words {
    fn tokens(&self, model: &Hosted) -> Result<TokenBatch, ServeError> {
        let encoder = model.text_encoder()?;
        let mut batch = match self {
            Words::Text(text) => {
                encoder.encode(&[text]).map_err(|e| ServeError::bad_request(e.kind(), e.to_string()))?
            }
            Words::Ids(ids) => {
                if let Some(limit) = encoder.context_length().filter(|&limit| ids.len() > limit) {
                    let what = format!("{} token ids are more than the {limit} that this model reads", ids.len());
                    return Err(ServeError::bad_request("text_too_long", what));
                }
                TokenBatch {
                    input_ids: ids.iter().map(|&id| i64::from(id)).collect(),
                    attention_mask: vec![1; ids.len()],
                    texts: 1,
                    length: ids.len(),
                    counts: vec![ids.len()],
                }
            }
        };
        let length = match (encoder.padding(), model.bucket) {
            (Padding::Fixed(length), _) => length,
            (Padding::Longest, Some(bucket)) => {
                batch.length.next_multiple_of(bucket).min(encoder.context_length().unwrap_or(usize::MAX))
            }
            (Padding::Longest, None) => batch.length,
        };
        fill(&mut batch, length, encoder.pad_id());
        Ok(batch)
    }
}

/// Fills one text behind its end.
fn fill(batch: &mut TokenBatch, length: usize, id: i64) {
    if length > batch.length {
        batch.length = length;
        batch.input_ids.resize(length, id);
        batch.attention_mask.resize(length, 0);
    }
}

async fn embed_words(
    app: &Arc<App>,
    model: &Arc<Hosted>,
    key: Key,
    words: &Words,
) -> Result<Arc<Embedding>, ServeError> {
    let compute = || async {
        let (held, words) = (model.clone(), words.clone());
        let tokens = app.pool.run(move || words.tokens(&held)).await?;
        Ok(Embedding { values: model.embed_tokens(&tokens).await?, tokens: tokens.counts.iter().sum() })
    };
    app.cache.get_or_compute(key, compute).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_filled_behind_its_end_and_never_cut() {
        let text =
            || TokenBatch { input_ids: vec![5, 6], attention_mask: vec![1, 1], texts: 1, length: 2, counts: vec![2] };
        let mut batch = text();
        fill(&mut batch, 4, 9);
        assert_eq!((batch.input_ids, batch.attention_mask, batch.length), (vec![5, 6, 9, 9], vec![1, 1, 0, 0], 4));
        let mut batch = text();
        fill(&mut batch, 1, 9);
        assert_eq!(batch, text());
    }
}
