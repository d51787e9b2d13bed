//! `/v1/embeddings`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, TryStreamExt, stream};
use lenslet::tasks::pooling::normalise;
use serde_json::{Value, json};

use super::cors::SERVER_TIMING;
use super::input::{Bounds, Encoding, Request};
use super::{body, multipart};
use crate::app::App;
use crate::cache::Embedding;
use crate::embed::{Input, embed, known};
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
    let dimensions = dimensions(model, request.dimensions)?;
    all_known(&app, model, &request.inputs).await?;
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

/// The length that vectors are to have.
pub(super) fn dimensions(model: &Hosted, asked: Option<usize>) -> Result<usize, ServeError> {
    let whole = model.towers().map(|_| model.dimensions.unwrap_or(0))?;
    let dimensions = asked.unwrap_or(whole);
    if dimensions == 0 || dimensions > whole {
        let what = format!("dimensions must be 1 to {whole}, the length of this model's vectors");
        return Err(ServeError::bad_request("invalid_value", what).at("dimensions"));
    }
    Ok(dimensions)
}

/// A vector as the answer has it. One that is cut is brought to unit length again.
pub(super) fn written(values: &[f32], dimensions: usize, encoding: Encoding) -> Value {
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
pub(super) async fn all_known(app: &App, model: &Hosted, inputs: &[Input]) -> Result<(), ServeError> {
    let mut missing = vec![];
    for (index, input) in inputs.iter().enumerate() {
        if let Input::PictureHash(digest) = input
            && known(app, model, digest).await.is_none()
        {
            missing.push(index);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(not_cached(&missing)) }
}

/// A request with pictures of these places in its input that are not known here.
pub(crate) fn not_cached(missing: &[usize]) -> ServeError {
    let what = "these pictures are not known here; send them whole (details.missing lists their places in input)";
    let error = ServeError::new(Reason::NotFound, "content_not_cached", what).at("input");
    error.with_details(json!({ "missing": missing }))
}
