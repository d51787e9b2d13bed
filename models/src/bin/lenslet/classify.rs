//! `lenslet classify`: which of some labels fits a picture.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use lenslet::tasks::classify::{DEFAULT_TEMPLATE, prompt};
use lenslet_models::dual::Need;
use serde::Serialize;

use crate::context::{Context, ModelArgs};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Say which of some labels fits a picture best.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet classify photo.jpg --labels cat,dog,horse
  lenslet classify icon.png --labels pizza,heart --model emoji-clip --template \"{}\"")]
pub(crate) struct Args {
    /// A picture file
    image: PathBuf,
    /// Labels, with commas between them
    #[arg(long, required = true, value_delimiter = ',', value_name = "A,B,C")]
    labels: Vec<String>,
    /// The text around a label
    #[arg(long, default_value = DEFAULT_TEMPLATE, value_name = "TEXT")]
    template: String,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    image: String,
    model: &'a str,
    ms: f64,
    labels: Vec<Scored<'a>>,
}

#[derive(Serialize)]
struct Scored<'a> {
    label: &'a str,
    score: f32,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let labels: Vec<&str> = args.labels.iter().map(|label| label.trim()).filter(|label| !label.is_empty()).collect();
    if labels.is_empty() {
        return Err(Failure::input("classify_no_labels", "no labels were given", "write --labels cat,dog,horse"));
    }
    let mut model = args.model.load(context, Need::Both)?;
    let started = Instant::now();
    let image = model.picture(&args.image)?;
    let prompts: Vec<String> = labels.iter().map(|label| prompt(&args.template, label)).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let vectors = model.texts(&prompts)?;
    let scores = model.scoring().probabilities(&image, &vectors).map_err(|error| {
        Failure::input(error.kind(), error, "the towers of this model do not belong together; choose another")
    })?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let mut scored: Vec<Scored<'_>> =
        labels.into_iter().zip(scores).map(|(label, score)| Scored { label, score }).collect();
    scored.sort_by(|a, b| b.score.total_cmp(&a.score));
    if context.json {
        let image = args.image.display().to_string();
        output::json(&Report { image, model: model.name(), ms, labels: scored })?;
    } else {
        let mut text = String::new();
        for Scored { label, score } in &scored {
            let _ = writeln!(text, "{:5.1} %  {label}", score * 100.0);
        }
        output::text(&text)?;
    }
    Ok(true)
}
