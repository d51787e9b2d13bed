//! `lenslet embed`: one vector.

use std::path::PathBuf;

use lenslet::tasks::fingerprint::Fingerprint;
use lenslet_models::dual::Need;
use serde::Serialize;

use crate::context::{Context, ModelArgs};
use crate::{Outcome, output};

/// Print the vector of a picture or of a text.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet embed --text \"a red bicycle\"
  lenslet embed --image photo.jpg --json --model emoji-clip

Vectors have length 1. Compare only vectors with the same fingerprint.")]
pub(crate) struct Args {
    /// A picture file
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    image: Option<PathBuf>,
    /// A text
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    fingerprint: Fingerprint,
    dim: usize,
    embedding: &'a [f32],
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let need = if args.image.is_some() { Need::Image } else { Need::Text };
    let model = args.model.load(context, need)?;
    let embedding = match &args.image {
        Some(path) => model.picture(path)?,
        None => model.text(args.text.as_deref().unwrap_or_default())?,
    };
    if context.json {
        let dim = embedding.len();
        output::json(&Report { model: model.name(), fingerprint: model.fingerprint(), dim, embedding: &embedding })?;
    } else {
        let lines: String = embedding.iter().map(|number| format!("{number}\n")).collect();
        output::text(&lines)?;
    }
    Ok(true)
}
