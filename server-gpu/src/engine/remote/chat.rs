//! Texts of a server that speaks OpenAI's interface.

use std::sync::Arc;

use axum::http::{Method, header};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::http::{Http, not_understood};
use crate::chat::ChatPrompt;
use crate::engine::Step;
use crate::error::{Reason, ServeError};

/// Steps that wait to be taken.
const AHEAD: usize = 16;

/// Bytes of one event at most.
const MAX_EVENT: usize = 1 << 20;

/// A text under way there.
pub(super) struct Stream {
    pub(super) steps: mpsc::Receiver<Result<Step, ServeError>>,
}

/// Begins a text. It ends there when the stream is dropped here.
pub(super) fn begin(http: Arc<Http>, model: &str, prompt: &ChatPrompt) -> Stream {
    let mut request = prompt.request.clone();
    request["model"] = model.into();
    request["stream"] = true.into();
    request["stream_options"] = json!({ "include_usage": true });
    let (sender, steps) = mpsc::channel(AHEAD);
    let relay = async move {
        // The connection is given up as soon as nobody listens.
        tokio::select! {
            _ = sender.closed() => {}
            () = read(&http, request, &sender) => {}
        }
    };
    tokio::spawn(relay.in_current_span());
    Stream { steps }
}

async fn read(http: &Http, request: Value, steps: &mpsc::Sender<Result<Step, ServeError>>) {
    if let Err(error) = events(http, request, steps).await {
        let _ = steps.send(Err(error)).await;
    }
}

async fn events(http: &Http, request: Value, steps: &mpsc::Sender<Result<Step, ServeError>>) -> Result<(), ServeError> {
    let headers = [(header::CONTENT_TYPE.as_str(), "application/json".to_owned())];
    let body = Bytes::from(request.to_string());
    let mut answer = http.send(Method::POST, "/v1/chat/completions", &headers, body).await?;
    let (mut text, mut state) = (Vec::new(), State::default());
    while let Some(piece) = http.piece(&mut answer.body).await {
        text.extend_from_slice(&piece?);
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            match state.event(data.trim_ascii())? {
                Event::Step(step) => {
                    if steps.send(Ok(step)).await.is_err() {
                        return Ok(());
                    }
                }
                Event::Nothing => {}
                Event::End(step) => {
                    let _ = steps.send(Ok(step)).await;
                    return Ok(());
                }
            }
        }
        if text.len() > MAX_EVENT {
            return Err(not_understood("an event of its stream does not end"));
        }
    }
    Err(ServeError::new(Reason::Upstream, "text_cut_off", "the server behind ended in the middle of the text"))
}

enum Event {
    Step(Step),
    Nothing,
    End(Step),
}

/// What is known of a text so far.
#[derive(Default)]
struct State {
    finish: Option<&'static str>,
    prompt_tokens: usize,
    completion_tokens: usize,
    counted: bool,
}

impl State {
    fn event(&mut self, data: &[u8]) -> Result<Event, ServeError> {
        if data == b"[DONE]" {
            let finish = Some(self.finish.unwrap_or("stop"));
            return Ok(Event::End(Step { finish, ..self.step(String::new(), vec![]) }));
        }
        let json: Value =
            serde_json::from_slice(data).map_err(|e| not_understood(format!("an event of its stream: {e}")))?;
        if let Some(error) = json.get("error") {
            let message = error["message"].as_str().unwrap_or("the text failed").to_owned();
            let code = error["code"].as_str().unwrap_or("remote_refused").to_owned();
            return Err(ServeError::new(Reason::Upstream, code, message));
        }
        let count = |name: &str| json["usage"][name].as_u64().map(|n| n as usize);
        if let (Some(prompt), Some(completion)) = (count("prompt_tokens"), count("completion_tokens")) {
            (self.prompt_tokens, self.completion_tokens, self.counted) = (prompt, completion, true);
        }
        let choice = &json["choices"][0];
        match choice["finish_reason"].as_str() {
            Some("length") => self.finish = Some("length"),
            Some(_) => self.finish = Some("stop"),
            None => {}
        }
        let text = choice["delta"]["content"].as_str().unwrap_or_default().to_owned();
        let ids = json["lenslet"]["tokens"].as_array();
        let tokens: Vec<u32> =
            ids.map(|ids| ids.iter().filter_map(|id| Some(id.as_u64()? as u32)).collect()).unwrap_or_default();
        if text.is_empty() && tokens.is_empty() {
            return Ok(Event::Nothing);
        }
        if !self.counted {
            // Until the server says how many: its pieces are tokens, mostly.
            self.completion_tokens += tokens.len().max(1);
        }
        Ok(Event::Step(self.step(text, tokens)))
    }

    fn step(&self, text: String, tokens: Vec<u32>) -> Step {
        let State { prompt_tokens, completion_tokens, .. } = *self;
        Step { text, tokens, prompt_tokens, completion_tokens, finish: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_openai_is_understood() {
        let mut state = State::default();
        let mut event = |data: &str| state.event(data.as_bytes());
        let Ok(Event::Nothing) = event(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#) else {
            panic!()
        };
        let Ok(Event::Step(step)) = event(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#) else {
            panic!()
        };
        assert_eq!((step.text.as_str(), step.completion_tokens), ("a", 1));
        let Ok(Event::Nothing) = event(r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#) else { panic!() };
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#;
        let Ok(Event::Nothing) = event(usage) else { panic!() };
        let Ok(Event::End(end)) = event("[DONE]") else { panic!() };
        assert_eq!((end.finish, end.prompt_tokens, end.completion_tokens), (Some("length"), 5, 7));
        assert_eq!(event("{").err().unwrap().code, "remote_answer");
        assert_eq!(event(r#"{"error":{"message":"x","code":"y"}}"#).err().unwrap().code, "y");
    }
}
