//! `lenslet eval captions`: how often a caption is the right one.

use std::path::PathBuf;
use std::time::Instant;

use lenslet::tasks::writing::WritingOptions;
use lenslet_models::bleu::bleu4;
use lenslet_models::catalog;
use lenslet_models::folder::ModelFolder;
use lenslet_models::writing::load_captioner;
use serde::Serialize;

use super::{locate, read_labels};
use crate::context::{Context, ModelArgs, device_name, read_picture};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Share of pictures whose greedy caption is the label, and BLEU-4 of all; in lower case.
#[derive(clap::Args)]
#[command(after_help = "Example:
  lenslet eval captions --images openmoji --labels openmoji.json
  lenslet eval captions --images openmoji --labels openmoji.json --label caption

The labels are a JSON list of objects: `file`, and for each language a key with the text.")]
pub(super) struct Captions {
    /// The folder that `file` is relative to, or that holds the files themselves
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The JSON file with the texts
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The key of the texts
    #[arg(long, default_value = "en", value_name = "KEY")]
    label: String,
    /// Only every Nth picture
    #[arg(long, default_value_t = 1, value_name = "N")]
    every: usize,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    device: &'a str,
    label: &'a str,
    pictures: usize,
    exact: f64,
    bleu4: f64,
    ms: f64,
}

pub(super) fn run(context: &Context, args: &Captions) -> Outcome {
    let labels = read_labels(&args.labels, &args.label)?;
    let labels: Vec<_> = labels.iter().step_by(args.every.max(1)).collect();
    let options = context.options()?;
    let default = || catalog::first_for("image-to-text").map_or("", |entry| entry.name.as_str());
    let folder = ModelFolder::locate(args.model.model.as_deref().unwrap_or_else(default))?;
    let captioner = load_captioner(&folder, args.model.precision.into(), &options)?;
    let asked = WritingOptions { sampling: Some(Default::default()), ..WritingOptions::default() };
    let started = Instant::now();
    let bar = output::progress(labels.len(), "pictures", context.json);
    let mut pairs = Vec::with_capacity(labels.len());
    for (file, label) in labels {
        let picture = read_picture(&locate(&args.images, file))?;
        let text = pollster::block_on(async { captioner.caption(&picture, &asked).await?.rest().await });
        pairs.push((text.map_err(Failure::from)?.trim().to_lowercase(), label.trim().to_lowercase()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let exact = pairs.iter().filter(|(text, label)| text == label).count();
    let report = Report {
        model: folder.name(),
        device: device_name(&options),
        label: &args.label,
        pictures: pairs.len(),
        exact: exact as f64 / pairs.len() as f64,
        bleu4: bleu4(pairs.iter().map(|(text, label)| (text.as_str(), label.as_str()))),
        ms: started.elapsed().as_secs_f64() * 1e3,
    };
    if context.json {
        output::json(&report)?;
    } else {
        output::text(&format!(
            "{} on {}, {} ({}): exact {:.4}  BLEU-4 {:.3}\n",
            report.model,
            report.device,
            output::count(report.pictures, "picture"),
            report.label,
            report.exact,
            report.bleu4
        ))?;
    }
    Ok(true)
}
