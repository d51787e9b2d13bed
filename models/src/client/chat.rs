//! Texts that a server writes, piece by piece.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Map, Value, json};
use ureq::BodyReader;

use super::http::Http;
use super::{ClientError, picture};

/// Bytes of one event at most.
const MOST_EVENT: u64 = 1 << 20;

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// The server's name of the model.
    pub model: String,
    /// What the model is told before the question.
    pub system: Option<String>,
    /// The question; of captioners nothing.
    pub question: Option<String>,
    /// The file of the picture that it is about.
    pub picture: Option<Vec<u8>>,
    /// How tokens are chosen, and when the text ends.
    pub chosen: Chosen,
}

/// How tokens are chosen; what is left out, the server's model says.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Tokens at most.
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest.
    pub temperature: Option<f32>,
    /// Draw from the likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Of the random numbers.
    pub seed: Option<u64>,
    /// Texts that end the text.
    pub stop: Vec<String>,
}

/// A text while it is written. Dropping it ends it there.
pub struct ChatStream {
    lines: BufReader<BodyReader<'static>>,
    server: String,
    /// The ids of the tokens so far.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, once they are known.
    pub prompt_tokens: usize,
    /// Tokens of the text, once it has ended.
    pub completion_tokens: usize,
    /// `stop` or `length`, once it has ended.
    pub finish_reason: Option<&'static str>,
    ended: bool,
}

impl ChatRequest {
    fn body(&self) -> Value {
        let mut messages = vec![];
        if let Some(system) = &self.system {
            messages.push(json!({ "role": "system", "content": system }));
        }
        let text = self.question.as_ref().map(|text| json!({ "type": "text", "text": text }));
        let parts: Vec<Value> = self.picture.iter().map(|file| picture(file)).chain(text).collect();
        messages.push(json!({ "role": "user", "content": parts }));
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        put("model", self.model.clone().into());
        put("messages", messages.into());
        put("stream", true.into());
        put("stream_options", json!({ "include_usage": true }));
        let Chosen { max_tokens, temperature, top_p, seed, stop } = &self.chosen;
        let given = [
            ("max_tokens", max_tokens.map(Value::from)),
            ("temperature", temperature.map(Value::from)),
            ("top_p", top_p.map(Value::from)),
            ("seed", seed.map(Value::from)),
            ("stop", Some(stop.clone().into()).filter(|_| !stop.is_empty())),
        ];
        given.into_iter().for_each(|(name, value)| value.into_iter().for_each(|value| put(name, value)));
        Value::Object(body)
    }
}

impl ChatStream {
    /// Begins a text. `exists` says what there is where the server has no such model.
    pub(super) fn begin(
        http: &Http,
        request: &ChatRequest,
        exists: impl Fn(&str) -> Result<(), ClientError>,
    ) -> Result<ChatStream, ClientError> {
        let answer = match http.begin("/v1/chat/completions", &request.body()) {
            Ok(answer) => answer,
            Err(error @ ClientError::Rejected { .. }) => {
                exists(&request.model)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        Ok(ChatStream {
            lines: BufReader::new(answer.into_body().into_reader()),
            server: http.base().to_owned(),
            tokens: vec![],
            prompt_tokens: 0,
            completion_tokens: 0,
            finish_reason: None,
            ended: false,
        })
    }

    /// The next piece of text, or `None` behind the last one.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] where the text is cut, and [`ClientError::Failed`].
    pub fn next_piece(&mut self) -> Result<Option<String>, ClientError> {
        while !self.ended {
            let line = self.line()?;
            let Some(data) = line.strip_prefix("data:") else { continue };
            if data.trim() == "[DONE]" {
                self.ended = true;
                break;
            }
            let event: Value = serde_json::from_str(data).map_err(|e| self.failed(format!("an event: {e}")))?;
            if let Some(message) = event["error"]["message"].as_str() {
                return Err(self.failed(message));
            }
            let count = |name: &str| event["usage"][name].as_u64().and_then(|n| usize::try_from(n).ok());
            self.prompt_tokens = count("prompt_tokens").unwrap_or(self.prompt_tokens);
            self.completion_tokens = count("completion_tokens").unwrap_or(self.completion_tokens);
            let choice = &event["choices"][0];
            match choice["finish_reason"].as_str() {
                Some("length") => self.finish_reason = Some("length"),
                Some(_) => self.finish_reason = Some("stop"),
                None => {}
            }
            let text = choice["delta"]["content"].as_str().unwrap_or_default().to_owned();
            let ids = event["lenslet"]["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
            self.tokens.extend(ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = String::new();
        let read = self.lines.by_ref().take(MOST_EVENT).read_line(&mut line);
        let cut = |why: String| ClientError::Unreachable { server: self.server.clone(), why };
        match read {
            // A text that is over says so.
            Ok(0) => Err(cut("it ended in the middle of the text".into())),
            Ok(_) if line.ends_with('\n') => Ok(line),
            Ok(_) => Err(self.failed("an event of its text does not end")),
            Err(error) => Err(cut(error.to_string())),
        }
    }

    fn failed(&self, message: impl Into<String>) -> ClientError {
        ClientError::Failed { server: self.server.clone(), message: message.into() }
    }
}
