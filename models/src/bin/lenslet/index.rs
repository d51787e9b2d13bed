//! `lenslet index`: a folder of pictures to an index file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Instant, UNIX_EPOCH};

use lenslet::tasks::fingerprint::Fingerprint;
use lenslet::tasks::index::{Entry, Index, VectorType};
use rayon::prelude::*;
use serde::Serialize;
use walkdir::WalkDir;

use crate::context::{Context, ModelArgs};
use crate::failure::Failure;
use crate::maker::{Maker, Prepared, Source, Trouble};
use crate::{Outcome, output};

/// Index a folder of pictures, so that `lenslet search` finds them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet index ~/Pictures -o pictures.idx
  lenslet index icons -o icons.idx --model emoji-clip

Run it again to bring the index up to date: files that did not change are skipped, deleted ones are
dropped. Ctrl-C keeps what is done, and the next run goes on from there. Reads PNG, JPEG, WebP, GIF and
BMP; hidden files and folders are left out.")]
pub(crate) struct Args {
    /// The folder with the pictures, searched with all folders inside
    dir: PathBuf,
    /// The index file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Keep vectors in one byte a number: a quarter of the size, nearly as exact
    #[arg(long)]
    int8: bool,
    /// Begin anew, whatever the file holds
    #[arg(long)]
    rebuild: bool,
    /// Write the file each time so many pictures are done
    #[arg(long, default_value_t = 500, value_name = "N", hide = true)]
    save_every: usize,
}

/// Set by Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Prepared pictures that wait for the model: more only cost memory.
const WAITING: usize = 16;

const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp"];

/// A picture file.
struct Found {
    path: PathBuf,
    entry: Entry,
}

#[derive(Serialize)]
struct Skipped {
    path: String,
    reason: String,
}

#[derive(Serialize)]
struct Report<'a> {
    index: String,
    model: &'a str,
    fingerprint: Fingerprint,
    device: &'a str,
    pictures: usize,
    added: usize,
    unchanged: usize,
    removed: usize,
    skipped: Vec<Skipped>,
    interrupted: bool,
    ms: f64,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let started = Instant::now();
    let mut skipped = Vec::new();
    let found = walk(&args.dir, &mut skipped)?;
    let model = Source::find(context, &args.model)?;
    let space = model.fingerprint();
    let previous = previous(args, space)?;

    let (todo, unchanged): (Vec<Found>, Vec<Found>) = found
        .into_iter()
        .partition(|file| previous.as_ref().and_then(|index| index.get(&file.entry.path)) != Some(&file.entry));
    let device = model.device();
    let total = todo.len();
    let current: HashSet<String> = todo.iter().chain(&unchanged).map(|file| file.entry.path.clone()).collect();
    let mut build = Build { index: previous, added: 0, removed: 0, save_at: args.save_every, args, skipped };
    if let Some(index) = &mut build.index {
        build.removed = index.retain(|entry| current.contains(&entry.path));
    }
    if total > 0 {
        build.add_all(context, &model, &model.load(&args.model)?, &todo)?;
    }
    let interrupted = INTERRUPTED.load(Ordering::Relaxed);
    let Build { index, added, removed, mut skipped, .. } = build;
    skipped.sort_by(|a, b| a.path.cmp(&b.path));
    let Some(index) = index else {
        if interrupted {
            let advice = "run the same command again".into();
            return Err(Failure::Interrupted { what: "stopped before the first picture was done".into(), advice });
        }
        report_skipped(&skipped);
        let what = format!("none of the {} in {} could be read", output::count(total, "picture"), args.dir.display());
        return Err(Failure::input("index_all_unreadable", what, "see the reasons above"));
    };
    index.save(&args.output)?;
    let report = Report {
        index: args.output.display().to_string(),
        model: model.name(),
        fingerprint: space,
        device,
        pictures: index.len(),
        added,
        unchanged: unchanged.len(),
        removed,
        skipped,
        interrupted,
        ms: started.elapsed().as_secs_f64() * 1e3,
    };
    if context.json {
        output::json(&report)?;
    } else {
        report_skipped(&report.skipped);
        output::text(&summary(&report))?;
    }
    if interrupted {
        let what = format!("stopped; {} of {} new pictures are in {}", added, total, args.output.display());
        return Err(Failure::Interrupted { what, advice: "run the same command again to go on".into() });
    }
    Ok(true)
}

fn summary(report: &Report<'_>) -> String {
    let mut text = format!("{}: {}", report.index, output::count(report.pictures, "picture"));
    let parts = [
        (report.added, "new or changed"),
        (report.unchanged, "unchanged"),
        (report.removed, "removed"),
        (report.skipped.len(), "skipped"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    text.push_str(&format!(
        " ({}), {:.1} s on {}, {}\n",
        parts.join(", "),
        report.ms / 1e3,
        report.device,
        report.model
    ));
    text
}

fn report_skipped(skipped: &[Skipped]) {
    for file in skipped {
        eprintln!("skipped {}: {}", file.path, file.reason);
    }
}

/// The index to bring up to date, if the file is there.
fn previous(args: &Args, space: Fingerprint) -> Result<Option<Index>, Failure> {
    if args.rebuild || !args.output.exists() {
        return Ok(None);
    }
    let index = Index::load(&args.output)?;
    index.check_fingerprint(space)?;
    let wanted = if args.int8 { VectorType::Int8 } else { VectorType::F32 };
    if index.vector_type() != wanted && args.int8 {
        let what = format!("{} keeps its vectors in f32", args.output.display());
        return Err(Failure::input("index_vector_type", what, "leave --int8 out, or add --rebuild"));
    }
    Ok(Some(index))
}

/// All picture files under `dir`, in the order of their paths.
fn walk(dir: &Path, skipped: &mut Vec<Skipped>) -> Result<Vec<Found>, Failure> {
    if !dir.is_dir() {
        let what = format!("{} is not a folder", dir.display());
        return Err(Failure::input("not_a_folder", what, "give the folder that holds the pictures"));
    }
    let mut skip = |path: &Path, reason: String| {
        let path = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        skipped.push(Skipped { path, reason });
    };
    let mut found = Vec::new();
    let hidden = |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    for item in WalkDir::new(dir).sort_by_file_name().into_iter().filter_entry(|entry| !hidden(entry)) {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                skip(error.path().unwrap_or(dir), error.to_string());
                continue;
            }
        };
        if !item.file_type().is_file() || !is_picture(item.path()) {
            continue;
        }
        let Some(name) = relative_name(item.path(), dir) else {
            skip(item.path(), "its name is not UTF-8".into());
            continue;
        };
        match item.metadata() {
            Ok(data) => {
                let mtime = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let mtime_ns = mtime.and_then(|time| i64::try_from(time.as_nanos()).ok()).unwrap_or(0);
                let entry = Entry { size: data.len(), mtime_ns, ..Entry::new(name) };
                found.push(Found { path: item.into_path(), entry });
            }
            Err(error) => skip(item.path(), error.to_string()),
        }
    }
    if found.is_empty() {
        let what = format!("{} holds no pictures (.{})", dir.display(), EXTENSIONS.join(", ."));
        return Err(Failure::input("no_pictures", what, "check the path; hidden folders are not searched"));
    }
    Ok(found)
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// The path inside the folder, with slashes on every system.
fn relative_name(path: &Path, dir: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> =
        path.strip_prefix(dir).ok()?.components().map(|part| part.as_os_str().to_str()).collect();
    Some(parts?.join("/"))
}

/// An index under construction.
struct Build<'a> {
    /// Made when the width of the vectors is known.
    index: Option<Index>,
    added: usize,
    removed: usize,
    save_at: usize,
    args: &'a Args,
    skipped: Vec<Skipped>,
}

impl Build<'_> {
    /// Decodes on a pool of threads while the model runs on this one.
    fn add_all(
        &mut self,
        context: &Context,
        source: &Source,
        model: &Maker<'_>,
        todo: &[Found],
    ) -> Result<(), Failure> {
        listen_for_interrupt();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(model.threads(context)).build().map_err(|error| {
            Failure::input("threads", format_args!("threads could not be started: {error}"), "try --threads 1")
        })?;
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pool.install(|| {
                    todo.par_iter().with_max_len(1).for_each_with(sender, |sender, file| {
                        // A closed channel means that the other side has stopped.
                        if !INTERRUPTED.load(Ordering::Relaxed) {
                            let _ = sender.send((file, model.prepare(&file.path, &INTERRUPTED)));
                        }
                    });
                });
            });
            let outcome = self.receive(context, source, model, todo.len(), receiver);
            // Ends the decoding early if the model failed.
            if outcome.is_err() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
            outcome
        })
    }

    fn receive(
        &mut self,
        context: &Context,
        source: &Source,
        model: &Maker<'_>,
        total: usize,
        receiver: Receiver<(&Found, Result<Prepared, Trouble>)>,
    ) -> Result<(), Failure> {
        let bar = output::progress(total, "indexing", context.json);
        for (file, prepared) in receiver {
            if INTERRUPTED.load(Ordering::Relaxed) {
                break;
            }
            match prepared {
                Ok(prepared) => self.add(source, file, &model.vector(prepared)?)?,
                Err(Trouble::Fatal(failure)) => return Err(failure),
                Err(Trouble::Picture(reason)) => {
                    if let Some(index) = &mut self.index {
                        index.remove(&file.entry.path);
                    }
                    self.skipped.push(Skipped { path: file.entry.path.clone(), reason });
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn add(&mut self, source: &Source, file: &Found, vector: &[f32]) -> Result<(), Failure> {
        let kind = if self.args.int8 { VectorType::Int8 } else { VectorType::F32 };
        let index = self
            .index
            .get_or_insert_with(|| Index::new(source.fingerprint(), source.name().to_owned(), vector.len(), kind));
        index.add(file.entry.clone(), vector)?;
        self.added += 1;
        if self.added >= self.save_at {
            self.save_at = self.added + self.args.save_every.max(1);
            index.save(&self.args.output)?;
        }
        Ok(())
    }
}

/// The first Ctrl-C lets the current picture end, the second ends the program at once.
fn listen_for_interrupt() {
    let listening = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(error) = listening {
        eprintln!("lenslet: Ctrl-C will not save what is done: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_extension() {
        assert!(is_picture(Path::new("a/b.JPEG")) && is_picture(Path::new("x.webp")));
        assert!(!is_picture(Path::new("notes.txt")) && !is_picture(Path::new("png")));
    }

    #[test]
    fn names_have_slashes() {
        let dir = Path::new("pictures");
        assert_eq!(relative_name(&dir.join("a").join("b.png"), dir).as_deref(), Some("a/b.png"));
    }
}
