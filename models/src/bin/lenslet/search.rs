//! `lenslet search`: the closest pictures of an index.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use lenslet::tasks::index::Index;
use lenslet_models::dual::{DualModel, Need, fingerprint};
use lenslet_models::folder::{ModelFolder, Precision};
use serde::Serialize;

use crate::context::{Context, PrecisionArg};
use crate::encoder::{Encoder, Remote};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Find the pictures of an index that fit a text, or look like a picture.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet search \"a cat on a sofa\" --index pictures.idx
  lenslet search --image query.jpg --index pictures.idx -k 3 --json

Paths are relative to the folder that was indexed. The model is the one that made the index.")]
pub(crate) struct Args {
    /// What to look for
    #[arg(required_unless_present = "image", conflicts_with = "image")]
    query: Option<String>,
    /// Look for pictures like this one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The file that `lenslet index` wrote
    #[arg(long, value_name = "FILE")]
    index: PathBuf,
    /// How many to show
    #[arg(short, default_value_t = 10, value_name = "N")]
    k: usize,
    /// Use this model instead of the one that the index names
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Which of the folder's graph files: auto takes those that made the index
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionArg,
}

#[derive(Serialize)]
struct Report<'a> {
    query: &'a str,
    model: &'a str,
    ms: f64,
    hits: Vec<ReportedHit<'a>>,
}

#[derive(Serialize)]
struct ReportedHit<'a> {
    path: &'a str,
    score: f32,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let index = Index::load(&args.index)?;
    let model = load(context, args, &index)?;
    let started = Instant::now();
    let vector = match &args.image {
        Some(path) => model.picture(path)?,
        None => model.text(args.query.as_deref().unwrap_or_default())?,
    };
    let hits = index.search(&vector, args.k)?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    if context.json {
        let image = args.image.as_ref().map(|path| path.display().to_string());
        let query = args.query.as_deref().or(image.as_deref()).unwrap_or_default();
        let hits = hits.iter().map(|hit| ReportedHit { path: &hit.path, score: hit.score }).collect();
        output::json(&Report { query, model: model.name(), ms, hits })?;
    } else {
        let mut text = String::new();
        for hit in &hits {
            let _ = writeln!(text, "{:.3}  {}", hit.score, hit.path);
        }
        output::text(&text)?;
    }
    Ok(true)
}

/// The model that made the index, here or on the server. A server whose model of that name is another one is not asked.
fn load(context: &Context, args: &Args, index: &Index) -> Result<Encoder, Failure> {
    let name = args.model.as_deref().unwrap_or(index.model());
    if let Some(client) = context.client()? {
        args.precision.check_remote()?;
        let tower = client.tower(name)?;
        index.check_fingerprint(tower.fingerprint)?;
        return Ok(Encoder::There(Remote { client, tower }));
    }
    let folder = ModelFolder::locate(name)?;
    let precision = matching_precision(index, &folder, args.precision.into())?;
    let need = if args.image.is_some() { Need::Image } else { Need::Text };
    Ok(Encoder::Here(Box::new(DualModel::load(&folder, precision, need, &context.options()?)?)))
}

/// The precision whose graphs made the index. Fails if none of the folder's did.
fn matching_precision(index: &Index, folder: &ModelFolder, wanted: Precision) -> Result<Precision, Failure> {
    let found = fingerprint(folder, &folder.graphs(wanted)?)?;
    if found == index.fingerprint() {
        return Ok(wanted);
    }
    if wanted == Precision::Auto {
        for precision in Precision::NAMED {
            let Ok(files) = folder.graphs(precision) else { continue };
            if fingerprint(folder, &files)? == index.fingerprint() {
                return Ok(precision);
            }
        }
    }
    index.check_fingerprint(found)?;
    Ok(wanted)
}
