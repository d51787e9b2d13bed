//! What the commands share that write text.

use std::io::Write as _;
use std::time::Instant;

use lenslet::generate::Sampling;
use lenslet::tasks::writing::{TextStream, Usage, WritingOptions};
use lenslet_models::client::{ChatRequest, ChatStream, Chosen, Client};
use serde::Serialize;

use crate::failure::Failure;
use crate::{Outcome, output};

/// How text is chosen and when it ends.
#[derive(clap::Args)]
pub(crate) struct WriteArgs {
    /// Print the text while it is written
    #[arg(long)]
    stream: bool,
    /// Tokens to write at most
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 takes the likeliest token, 1 draws as the model says, more is wilder [default: the model's own]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from this many of the likeliest tokens; 0 is all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Divide the logits of tokens that were there before by this
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Seed of the random numbers
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Follow this many texts at once and take the likeliest; it comes whole [default: the model's own]
    #[arg(long, value_name = "N")]
    beams: Option<usize>,
    /// Of beams: above 0 favours long texts, below 0 short ones [default: the model's own, or 1]
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    length_penalty: Option<f32>,
    /// End before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    text: &'a str,
    tokens: &'a [u32],
    prompt_tokens: usize,
    tokens_per_second: f64,
    finish_reason: Option<&'static str>,
}

impl WriteArgs {
    /// `model` is how the model's folder says to choose.
    pub(crate) fn options(&self, model: Sampling) -> WritingOptions {
        let Self { temperature, top_k, top_p, repetition_penalty, seed, .. } = self;
        let sampling = Sampling {
            temperature: temperature.unwrap_or(model.temperature),
            top_k: top_k.unwrap_or(model.top_k),
            top_p: top_p.unwrap_or(model.top_p),
            repetition_penalty: repetition_penalty.unwrap_or(model.repetition_penalty),
            seed: seed.unwrap_or_else(random_seed),
        };
        WritingOptions {
            sampling: Some(sampling),
            max_new_tokens: self.max_tokens,
            stop: self.stop.clone(),
            beams: self.beams,
            length_penalty: self.length_penalty,
            resume: None,
        }
    }

    /// The same for a server, whose interface has no words for some of it.
    pub(crate) fn chosen(&self) -> Result<Chosen, Failure> {
        let unknown = [
            ("--top-k", self.top_k.is_some()),
            ("--repetition-penalty", self.repetition_penalty.is_some()),
            ("--beams", self.beams.is_some_and(|beams| beams > 1)),
            ("--length-penalty", self.length_penalty.is_some()),
        ];
        if let Some((flag, _)) = unknown.iter().find(|(_, given)| *given) {
            let what = format!("{flag} cannot be asked of a server");
            return Err(Failure::input("server_option", what, "leave it out, or use --device auto"));
        }
        Ok(Chosen {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed.or_else(|| self.temperature.is_some_and(|t| t > 0.0).then(random_seed)),
            stop: self.stop.clone(),
        })
    }

    /// Has a server write, and writes the text out as it comes, or at its end.
    pub(crate) fn write_remote(&self, json: bool, client: &Client, request: &ChatRequest) -> Outcome {
        let stream = client.chat(request)?;
        self.write(json, &request.model, Written::There(Box::new(stream)))
    }

    /// Writes the text out as it comes, or at its end. The prompt was read just now, or is being read.
    pub(crate) fn write(&self, json: bool, model: &str, mut stream: Written<'_>) -> Outcome {
        let mut prompt_read = Instant::now();
        let mut text = String::new();
        while let Some(piece) = stream.next()? {
            if matches!(stream, Written::There(_)) && text.is_empty() {
                prompt_read = Instant::now();
            }
            if self.stream && !json {
                output::text(&piece)?;
            }
            text.push_str(&piece);
        }
        let seconds = prompt_read.elapsed().as_secs_f64();
        let usage = stream.usage();
        // The first token came with the prompt.
        let later = usage.completion_tokens.saturating_sub(1) as f64;
        if json {
            output::json(&Report {
                model,
                text: &text,
                tokens: stream.tokens(),
                prompt_tokens: usage.prompt_tokens,
                tokens_per_second: if seconds > 0.0 { later / seconds } else { 0.0 },
                finish_reason: stream.finish_reason(),
            })?;
        } else if self.stream {
            output::text("\n")?;
        } else {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", text.trim())?;
        }
        Ok(true)
    }
}

/// A text that is being written, here or on a server.
pub(crate) enum Written<'d> {
    Here(Box<TextStream<'d>>),
    There(Box<ChatStream>),
}

impl Written<'_> {
    fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Written::Here(stream) => pollster::block_on(stream.next()).map_err(Failure::from),
            Written::There(stream) => Ok(stream.next_piece()?),
        }
    }

    fn usage(&self) -> Usage {
        match self {
            Written::Here(stream) => stream.usage(),
            Written::There(stream) => {
                Usage { prompt_tokens: stream.prompt_tokens, completion_tokens: stream.completion_tokens }
            }
        }
    }

    fn tokens(&self) -> &[u32] {
        match self {
            Written::Here(stream) => stream.tokens(),
            Written::There(stream) => &stream.tokens,
        }
    }

    fn finish_reason(&self) -> Option<&'static str> {
        match self {
            Written::Here(stream) => stream.finish_reason(),
            Written::There(stream) => stream.finish_reason,
        }
    }
}

/// A seed that differs from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}
