//! `/v1/embeddings`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use lenslet::tasks::pooling::normalise;
use lenslet::tasks::text::Padding;
use lenslet::tasks::tokens::TokenBatch;
use serde_json::{Value, json};

use super::cors::SERVER_TIMING;
use super::input::{Bounds, Encoding, Input, Request};
use super::{body, multipart, picture};
use crate::app::App;
use crate::cache::{self, Embedding, Key};
use crate::error::{Reason, ServeError};
use crate::hosted::Hosted;

/// Vectors of texts and pictures.
pub(super) async fn embeddings(
    State(app): State<Arc<App>>,
    request: axum::extract::Request,
) -> Result<impl IntoResponse, ServeError> {
    let (head, body) = request.into_parts();
    let limits = &app.config.limits;
    let bounds = Bounds { inputs: limits.max_inputs, text_bytes: limits.max_text_bytes };
    let models = app.models()?;
    let mut read = body::read(&app, &head.headers, body).await?;
    let request = if body::is(&head.headers, "multipart/form-data") {
        multipart::parse(head, read.bytes, bounds).await?
    } else {
        Request::parse(&body::json_object(&app, &mut read.share, &read.bytes)?, bounds)?
    };
    // What comes before is the time of the connection.
    let started = Instant::now();
    let model = models.get(&request.model)?;
    let whole = model.towers().map(|_| model.dimensions.unwrap_or(0))?;
    let dimensions = request.dimensions.unwrap_or(whole);
    if dimensions == 0 || dimensions > whole {
        let what = format!("dimensions must be 1 to {whole}, the length of this model's vectors");
        return Err(ServeError::bad_request("invalid_value", what).at("dimensions"));
    }
    known(&app, model, &request.inputs).await?;
    model.scheduler.admit()?;
    let several = request.inputs.len() > 1;
    let one = |(index, input): (usize, Input)| {
        let (app, model) = (app.clone(), model.clone());
        async move {
            let embedding = embed(&app, &model, input).await;
            // An overload is no fault of the input that met it.
            embedding.map_err(|e| match e.reason {
                Reason::BadRequest | Reason::TooLarge if several => e.at(format!("input[{index}]")),
                Reason::BadRequest | Reason::TooLarge => e.at("input"),
                _ => e,
            })
        }
    };
    // As many at once as a batch takes, so that one large request does not fill the queue.
    let at_once = app.config.schedule.max_batch_images.max(1);
    let vectors: Vec<Arc<Embedding>> =
        stream::iter(request.inputs.into_iter().enumerate()).map(one).buffered(at_once).try_collect().await?;
    drop(read.share);
    let tokens: usize = vectors.iter().map(|vector| vector.tokens).sum();
    let data = vectors.iter().enumerate();
    let data: Vec<Value> = data
        .map(|(index, vector)| {
            let vector = written(&vector.values, dimensions, request.encoding);
            json!({ "object": "embedding", "index": index, "embedding": vector })
        })
        .collect();
    let answer = Json(json!({
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        "lenslet": { "fingerprint": model.fingerprint },
    }));
    // Clients tell by it what the connection costs and what the model does.
    let took = format!("compute;dur={:.1}", started.elapsed().as_secs_f64() * 1e3);
    Ok(([(SERVER_TIMING, took)], answer))
}

/// A vector as the answer has it. One that is cut is brought to unit length again.
fn written(values: &[f32], dimensions: usize, encoding: Encoding) -> Value {
    let mut values = values.to_vec();
    if dimensions < values.len() {
        values.truncate(dimensions);
        normalise(&mut values);
    }
    match encoding {
        Encoding::Float => values.into(),
        Encoding::Base64 => {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            STANDARD.encode(bytes).into()
        }
    }
}

/// Refuses a request with hashes that are not known here, naming all of them, before any work is done for it.
async fn known(app: &App, model: &Hosted, inputs: &[Input]) -> Result<(), ServeError> {
    let mut missing = vec![];
    for (index, input) in inputs.iter().enumerate() {
        if let Input::PictureHash(digest) = input
            && app.cache.get(&key(model, cache::Input::Picture, digest)).await.is_none()
        {
            missing.push(index);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = "these pictures are not known here; send them whole (details.missing lists their places in input)";
    let error = ServeError::new(Reason::NotFound, "content_not_cached", what).at("input");
    Err(error.with_details(json!({ "missing": missing })))
}

fn key(model: &Hosted, kind: cache::Input, digest: &[u8; 32]) -> Key {
    cache::key(&model.fingerprint, model.engine.name(), kind, digest)
}

async fn embed(app: &Arc<App>, model: &Arc<Hosted>, input: Input) -> Result<Arc<Embedding>, ServeError> {
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
            let found = app.cache.get(&key(model, cache::Input::Picture, &digest)).await;
            // It was there a moment ago.
            found.ok_or_else(|| {
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
