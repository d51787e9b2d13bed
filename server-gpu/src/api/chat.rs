//! `/v1/chat/completions`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use lenslet::tasks::writing::Resume;
use serde_json::{Map, Value, json};

use super::body::{self, optional, string};
use super::{answer, input, picture};
use crate::app::{App, Share};
use crate::chat::{ChatPrompt, Turn};
use crate::engine::Step;
use crate::error::{Reason, ServeError};
use crate::schedule::decode::Writing;

/// Pictures of one conversation; models here look at one.
const MAX_PICTURES: usize = 16;

/// Bytes of a token's text at most, when a text is measured before it is tokenized.
const MOST_TOKEN: usize = 64;

/// Turns of one conversation.
const MAX_TURNS: usize = 1024;

/// The answer to a conversation, whole or piece by piece.
pub(super) async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ServeError> {
    let models = app.models()?;
    let mut read = body::read(&app, &headers, body).await?;
    let object = body::json_object(&app, &mut read.share, &read.bytes)?;
    let request = Request::parse(&object, app.config.limits.max_tokens)?;
    let model = models.get(&request.model)?;
    let writer = model.writer()?;
    let mut prompt = request.prompt;
    let (mut pixels, mut bodies) = (Share::default(), Share::default());
    if model.engine.specs().hands_on {
        check_pictures(&app, &request.pictures)?;
        prompt.request = Value::Object(object);
        // The body lives on in the request.
        bodies = read.share;
    } else {
        (prompt.pictures, pixels) = decode_pictures(&app, request.pictures).await?;
    }
    drop(read.bytes);
    let mut writing = writer.submit(prompt)?;
    // What is wrong with the prompt shows before the first piece, and then still has a status of its own.
    let first = writing.next().await.unwrap_or_else(|| Err(cut_off()))?;
    let head = Head {
        id: format!("chatcmpl-{}", unique()),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        model: model.name.clone(),
    };
    if request.stream {
        Ok(streamed(Streaming {
            head,
            writing,
            next: Some(first),
            usage: request.usage,
            begun: false,
            _held: [pixels, bodies],
        }))
    } else {
        let answer = whole(head, writing, first).await;
        drop([pixels, bodies]);
        answer
    }
}

/// A text that ended without a last step: its engine is gone.
fn cut_off() -> ServeError {
    ServeError::internal("text_cut_off", "the text was cut off; ask again")
}

/// A number unlike those of other requests.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    format!("{started:016x}{:06x}", NEXT.fetch_add(1, Ordering::Relaxed) & 0xff_ffff)
}

/// A chat request.
struct Request {
    model: String,
    prompt: ChatPrompt,
    pictures: Vec<bytes::Bytes>,
    stream: bool,
    /// A last chunk with the usage.
    usage: bool,
}

impl Request {
    fn parse(object: &Map<String, Value>, most: usize) -> Result<Request, ServeError> {
        let model = string(object, "model")?.to_owned();
        let number = |name: &str, range: std::ops::RangeInclusive<f64>| {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            optional(object, name, &expected, |v| v.as_f64().filter(|x| range.contains(x)).map(|x| x as f32))
        };
        let count = |name: &str| optional(object, name, "a whole number above 0", |v| v.as_u64().filter(|n| *n > 0));
        let stream = optional(object, "stream", "true or false", Value::as_bool)?.unwrap_or(false);
        let of_stream = optional(object, "stream_options", "an object", Value::as_object)?;
        let usage = match of_stream {
            Some(options) => optional(options, "include_usage", "true or false", Value::as_bool)?.unwrap_or(false),
            None => false,
        };
        if count("n")?.unwrap_or(1) > 1 {
            return Err(ServeError::bad_request("unsupported", "this server gives one choice; leave out n").at("n"));
        }
        let max_tokens = count("max_completion_tokens")?.or(count("max_tokens")?);
        let (temperature, top_p) = (number("temperature", 0.0..=2.0)?, number("top_p", 0.0..=1.0)?);
        let seed = optional(object, "seed", "a whole number", |v| v.as_u64().or(v.as_i64().map(|n| n as u64)))?;
        let stop = stop_strings(object)?;
        let resume = resume(object, most)?;
        let (turns, pictures) = messages(object)?;
        let max_tokens = max_tokens.map_or(most, |n| usize::try_from(n).unwrap_or(usize::MAX).min(most));
        // What the request leaves open is the model folder's to say.
        let asked = object.contains_key("max_tokens") || object.contains_key("max_completion_tokens");
        let prompt = ChatPrompt {
            turns,
            max_tokens: asked.then_some(max_tokens),
            temperature,
            top_p,
            seed,
            stop,
            resume,
            ..ChatPrompt::default()
        };
        Ok(Request { model, prompt, pictures, stream, usage })
    }
}

fn stop_strings(object: &Map<String, Value>) -> Result<Vec<String>, ServeError> {
    let expected = "a text or up to 16 texts, none of them empty";
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let list = optional(object, "stop", expected, |value| match value {
        Value::Array(list) if list.len() <= 16 => list.iter().map(text).collect::<Option<Vec<_>>>(),
        one => text(one).map(|text| vec![text]),
    })?;
    Ok(list.unwrap_or_default())
}

/// Where the answer goes on: behind the tokens, or the words, of one that was cut. They are not sent again.
fn resume(object: &Map<String, Value>, most: usize) -> Result<Option<Resume>, ServeError> {
    let Some(own) = optional(object, "lenslet", "an object", Value::as_object)? else { return Ok(None) };
    let at = |e: ServeError| e.at("lenslet");
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let expected = "a list of token ids";
    let read = |value: &Value| value.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>();
    let tokens = optional(own, "resume_tokens", expected, read).map_err(at)?;
    let text = optional(own, "resume_text", "a text", Value::as_str).map_err(at)?;
    match (tokens, text) {
        (Some(_), Some(_)) => {
            let what = "resume_tokens and resume_text say the same; leave one out";
            Err(at(ServeError::bad_request("invalid_value", what)))
        }
        (Some(tokens), None) if tokens.len() > most => {
            let what = format!("{} resumed tokens are more than the limit of {most}", tokens.len());
            Err(at(ServeError::new(Reason::TooLarge, "text_too_long", what)))
        }
        (None, Some(text)) if text.len() > most.saturating_mul(MOST_TOKEN) => {
            let what = format!("a resumed text of {} bytes is longer than {most} tokens can be", text.len());
            Err(at(ServeError::new(Reason::TooLarge, "text_too_long", what)))
        }
        (Some(tokens), None) => Ok(Some(Resume::Tokens(tokens))),
        (None, text) => Ok(text.map(|text| Resume::Text(text.to_owned()))),
    }
}

/// The turns, and the files of their pictures.
fn messages(object: &Map<String, Value>) -> Result<(Vec<Turn>, Vec<bytes::Bytes>), ServeError> {
    let list = optional(object, "messages", "a list of messages", Value::as_array)?;
    let list = list.ok_or_else(|| ServeError::bad_request("missing_field", "messages is missing").at("messages"))?;
    if list.is_empty() || list.len() > MAX_TURNS {
        let what = format!("messages must hold 1 to {MAX_TURNS} messages");
        return Err(ServeError::bad_request("invalid_value", what).at("messages"));
    }
    let mut pictures = vec![];
    let turn =
        |(index, value): (usize, &Value)| turn(value, &mut pictures).map_err(|e| e.at(format!("messages[{index}]")));
    let turns = list.iter().enumerate().map(turn).collect::<Result<_, _>>()?;
    Ok((turns, pictures))
}

fn turn(value: &Value, pictures: &mut Vec<bytes::Bytes>) -> Result<Turn, ServeError> {
    let message = value.as_object();
    let message = message.ok_or_else(|| ServeError::bad_request("invalid_type", "a message must be an object"))?;
    let role = string(message, "role")?;
    if !matches!(role, "system" | "developer" | "user" | "assistant") {
        return Err(ServeError::bad_request("invalid_value", "role must be system, user or assistant"));
    }
    let before = pictures.len();
    let text = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(Value::Array(parts)) => {
            let mut texts: Vec<&str> = vec![];
            for value in parts {
                let part = value.as_object();
                let part = part.ok_or_else(|| ServeError::bad_request("invalid_type", "a part must be an object"))?;
                match string(part, "type")? {
                    "text" => texts.push(string(part, "text")?),
                    "image_url" if pictures.len() < MAX_PICTURES => {
                        pictures.push(picture::from_url(input::image_url(part)?)?);
                    }
                    "image_url" => {
                        let what = format!("a conversation may hold {MAX_PICTURES} pictures");
                        return Err(ServeError::new(Reason::TooLarge, "too_many_pictures", what));
                    }
                    _ => return Err(ServeError::bad_request("invalid_value", "type must be text or image_url")),
                }
            }
            texts.join("\n")
        }
        Some(_) => return Err(ServeError::bad_request("invalid_type", "content must be a text or a list of parts")),
    };
    // OpenAI's newer name for what templates call the system.
    let role = if role == "developer" { "system" } else { role };
    Ok(Turn { role: role.to_owned(), text, pictures: pictures.len() - before })
}

/// Refuses pictures that are too large, by what their headers claim.
fn check_pictures(app: &App, files: &[bytes::Bytes]) -> Result<(), ServeError> {
    let most = app.config.limits.max_pixels;
    match files.iter().any(|file| picture::claimed_pixels(file).is_some_and(|pixels| pixels > most)) {
        true => Err(picture::too_large(most).at("messages")),
        false => Ok(()),
    }
}

/// Decodes pictures on the pool. Their pixels are counted as long as they wait.
async fn decode_pictures(
    app: &Arc<App>,
    files: Vec<bytes::Bytes>,
) -> Result<(Vec<lenslet::tasks::image::Pixels>, Share), ServeError> {
    let (mut pictures, mut share) = (vec![], Share::default());
    for file in files {
        app.pixels.take(&mut share, picture::claimed_pixels(&file).unwrap_or(0))?;
        let most = app.config.limits.max_pixels;
        pictures.push(app.pool.run(move || picture::decoded(&file, most)).await.map_err(|e| e.at("messages"))?);
    }
    Ok((pictures, share))
}

/// What all pieces of an answer say.
struct Head {
    id: String,
    created: u64,
    model: String,
}

fn usage(step: &Step) -> Value {
    let (prompt, completion) = (step.prompt_tokens, step.completion_tokens);
    json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
}

/// The answer in one piece.
async fn whole(head: Head, mut writing: Writing, first: Step) -> Result<Response, ServeError> {
    let (mut text, mut tokens, mut step) = (String::new(), vec![], first);
    loop {
        text.push_str(&step.text);
        tokens.extend_from_slice(&step.tokens);
        if step.finish.is_some() {
            break;
        }
        step = writing.next().await.unwrap_or_else(|| Err(cut_off()))?;
    }
    let choice = json!({
        "index": 0,
        "message": { "role": "assistant", "content": text, "refusal": null },
        "logprobs": null,
        "finish_reason": step.finish,
    });
    let body = json!({
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [choice],
        "usage": usage(&step),
        "lenslet": { "tokens": tokens },
    });
    Ok(Json(body).into_response())
}

/// An answer that is sent piece by piece.
struct Streaming {
    head: Head,
    writing: Writing,
    /// The step that came before there was a stream to put it in.
    next: Option<Step>,
    usage: bool,
    begun: bool,
    /// Memory for pixels and body, counted until the stream ends.
    _held: [Share; 2],
}

impl Streaming {
    fn chunk(&self, choices: Value, rest: Option<(&str, Value)>) -> Event {
        let mut chunk = json!({
            "id": self.head.id,
            "object": "chat.completion.chunk",
            "created": self.head.created,
            "model": self.head.model,
            "choices": choices,
        });
        if let Some((name, value)) = rest {
            chunk[name] = value;
        }
        Event::default().data(chunk.to_string())
    }

    /// The events of a step, and whether there will be more.
    fn events(&mut self, step: Result<Step, ServeError>) -> (Vec<Event>, bool) {
        let step = match step {
            Ok(step) => step,
            // The status is sent; what is left is an event that clients raise as an error.
            Err(error) => {
                let event = Event::default().data(answer::openai_body(&error).to_string());
                return (vec![event], false);
            }
        };
        let mut delta = Map::new();
        if !std::mem::replace(&mut self.begun, true) {
            delta.insert("role".into(), "assistant".into());
        }
        if !step.text.is_empty() || delta.contains_key("role") {
            delta.insert("content".into(), step.text.clone().into());
        }
        // The tokens let a client go on elsewhere when this stream is cut.
        let tokens = ("lenslet", json!({ "tokens": step.tokens }));
        let choice = json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": step.finish }]);
        let mut events = vec![self.chunk(choice, Some(tokens))];
        if step.finish.is_none() {
            return (events, true);
        }
        if self.usage {
            events.push(self.chunk(json!([]), Some(("usage", usage(&step)))));
        }
        events.push(Event::default().data("[DONE]"));
        (events, false)
    }
}

fn streamed(streaming: Streaming) -> Response {
    let steps = stream::unfold(Some(streaming), |streaming| async move {
        let mut streaming = streaming?;
        let step = match streaming.next.take() {
            Some(step) => Ok(step),
            None => streaming.writing.next().await.unwrap_or_else(|| Err(cut_off())),
        };
        let (events, more) = streaming.events(step);
        let events = stream::iter(events.into_iter().map(Ok::<_, Infallible>));
        Some((events, more.then_some(streaming)))
    });
    let events = futures_util::StreamExt::flatten(steps);
    let mut response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    // Proxies that gather answers would hold the pieces back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
