//! What the commands share that write text.

use std::io::Write as _;
use std::time::Instant;

use lenslet::generate::Sampling;
use lenslet::tasks::writing::{TextStream, WritingOptions};
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

    /// Writes the text out as it comes, or at its end. `started` is when the prompt was read.
    pub(crate) fn write(&self, json: bool, model: &str, mut stream: TextStream<'_>, prompt_read: Instant) -> Outcome {
        let mut text = String::new();
        loop {
            let piece = pollster::block_on(stream.next()).map_err(Failure::from)?;
            let Some(piece) = piece else { break };
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

/// A seed that differs from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}
