//! `lenslet ask`: a question about a picture.

use std::path::PathBuf;

use lenslet_models::answerer::load_answerer;
use lenslet_models::catalog;
use lenslet_models::client::ChatRequest;
use lenslet_models::folder::ModelFolder;

use crate::Outcome;
use crate::context::{Context, PrecisionArg, read_file, read_picture};
use crate::failure::Failure;
use crate::write::{WriteArgs, Written};

/// Answer a question about a picture.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet ask photo.jpg \"What is in this picture?\" --model ./SmolVLM-256M-Instruct --stream
  lenslet ask photo.jpg \"a photograph of\" --model ./blip-image-captioning-base --json")]
pub(crate) struct Args {
    /// A picture file
    image: PathBuf,
    /// The question; of models that write captions, how the caption begins
    question: String,
    /// A known name or a model's folder
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Which of the folder's graph files: auto takes the most exact
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionArg,
    #[command(flatten)]
    write: WriteArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let default = || catalog::first_for("image-text-to-text").map(|entry| entry.name.as_str());
    let model = args.model.as_deref().or_else(default).ok_or_else(|| {
        Failure::input(
            "model_required",
            "no model that answers questions is bundled",
            "name a folder with --model, such as a download of HuggingFaceTB/SmolVLM-256M-Instruct",
        )
    })?;
    if let Some(client) = context.client()? {
        args.precision.check_remote()?;
        let picture = Some(read_file(&args.image)?);
        let (model, question) = (model.to_owned(), Some(args.question.clone()));
        let request = ChatRequest { model, question, picture, chosen: args.write.chosen()?, ..ChatRequest::default() };
        return args.write.write_remote(context.json, &client, &request);
    }
    let folder = ModelFolder::locate(model)?;
    let picture = read_picture(&args.image)?;
    let answerer = load_answerer(&folder, args.precision.into(), &context.options()?)?;
    let options = args.write.options(answerer.sampling().map_err(Failure::from)?);
    let stream = pollster::block_on(answerer.ask(&picture, &args.question, &options)).map_err(Failure::from)?;
    args.write.write(context.json, folder.name(), Written::Here(Box::new(stream)))
}
