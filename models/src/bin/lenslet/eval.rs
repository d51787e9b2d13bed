//! `lenslet eval`: how good a model is at its task.

mod captions;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Subcommand;
use lenslet::tasks::fingerprint::Fingerprint;
use lenslet::tasks::similarity::dot;
use lenslet_models::dual::Need;
use serde::Serialize;
use serde_json::Value;

use crate::context::{Context, ModelArgs, device_name, read_picture};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Measure how good a model is at its task.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Retrieval(Retrieval),
    Captions(captions::Captions),
}

/// Share of names whose picture is among the first 1, 5 and 10 of all pictures.
#[derive(clap::Args)]
#[command(after_help = "Example:
  lenslet eval retrieval --model emoji-clip --images openmoji --labels openmoji.json --lang es

The labels are a JSON list of objects: `file`, and for each language a key with the name. Each name is a
query with one right picture.")]
struct Retrieval {
    /// The folder that `file` is relative to, or that holds the files themselves
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// The JSON file with the names
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The key of the names
    #[arg(long, default_value = "en", value_name = "KEY")]
    lang: String,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    fingerprint: Fingerprint,
    device: &'a str,
    lang: &'a str,
    queries: usize,
    #[serde(rename = "R@1")]
    r1: f64,
    #[serde(rename = "R@5")]
    r5: f64,
    #[serde(rename = "R@10")]
    r10: f64,
    ms: f64,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    match &args.task {
        Task::Retrieval(args) => retrieval(context, args),
        Task::Captions(args) => captions::run(context, args),
    }
}

fn retrieval(context: &Context, args: &Retrieval) -> Outcome {
    let labels = read_labels(&args.labels, &args.lang)?;
    let options = context.options()?;
    let folder = args.model.folder()?;
    let precision = args.model.precision.into();
    let mut model = lenslet_models::dual::DualModel::load(&folder, precision, Need::Both, &options)?;
    let started = Instant::now();
    let bar = output::progress(labels.len(), "pictures", context.json);
    let mut images = Vec::with_capacity(labels.len());
    for (file, _) in &labels {
        let pixels = read_picture(&locate(&args.images, file))?;
        images.extend(pollster::block_on(model.tower.encode_images(&[pixels]))?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let names: Vec<&str> = labels.iter().map(|(_, name)| name.as_str()).collect();
    let texts = pollster::block_on(async {
        model.tower.settle_padding().await?;
        model.tower.encode_texts(&names).await
    })?;
    let ranks: Vec<usize> = texts.iter().enumerate().map(|(right, text)| rank(&images, text, right)).collect();
    let recall = |k: usize| ranks.iter().filter(|&&rank| rank < k).count() as f64 / ranks.len() as f64;
    let report = Report {
        model: &model.name,
        fingerprint: model.fingerprint,
        device: device_name(&options),
        lang: &args.lang,
        queries: ranks.len(),
        r1: recall(1),
        r5: recall(5),
        r10: recall(10),
        ms: started.elapsed().as_secs_f64() * 1e3,
    };
    if context.json {
        output::json(&report)?;
    } else {
        output::text(&format!(
            "{} on {}, {} ({}): R@1 {:.4}  R@5 {:.4}  R@10 {:.4}\n",
            report.model,
            report.device,
            output::count(report.queries, "name"),
            report.lang,
            report.r1,
            report.r5,
            report.r10
        ))?;
    }
    Ok(true)
}

/// How many pictures are closer to the text than the right one.
fn rank(images: &[Vec<f32>], text: &[f32], right: usize) -> usize {
    let own = dot(&images[right], text);
    images.iter().filter(|image| dot(image, text) > own).count()
}

/// Files and names.
fn read_labels(path: &Path, lang: &str) -> Result<Vec<(String, String)>, Failure> {
    let bytes = std::fs::read(path).map_err(|source| Failure::io(path, &source))?;
    let bad = |reason: String| {
        let what = format!("{}: {reason}", path.display());
        Failure::input("labels", what, "see `lenslet eval --help` for the layout")
    };
    let rows: Vec<Value> = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let labels = rows
        .iter()
        .enumerate()
        .map(|(at, row)| {
            let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
            let missing = |key: &str| bad(format!("entry {at} has no text {key:?}"));
            Ok((text("file").ok_or_else(|| missing("file"))?, text(lang).ok_or_else(|| missing(lang))?))
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    if labels.is_empty() {
        return Err(bad("it holds no entry".into()));
    }
    Ok(labels)
}

/// The file inside the folder, or the one of its name.
fn locate(folder: &Path, file: &str) -> PathBuf {
    let path = folder.join(file);
    match Path::new(file).file_name() {
        Some(name) if !path.is_file() => folder.join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_closer() {
        let images = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]];
        assert_eq!(rank(&images, &[0.0, 1.0], 1), 0);
        assert_eq!(rank(&images, &[0.0, 1.0], 0), 2);
    }
}
