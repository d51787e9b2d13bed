//! `lenslet caption`: what a picture shows.

use std::path::PathBuf;

use lenslet_models::catalog;
use lenslet_models::client::ChatRequest;
use lenslet_models::folder::ModelFolder;
use lenslet_models::writing::load_captioner;

use crate::Outcome;
use crate::context::{Context, ModelArgs, read_file, read_picture};
use crate::failure::Failure;
use crate::write::{WriteArgs, Written};

/// Say what a picture shows. The bundled model knows pictograms only, and is often wrong.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet caption pizza.png
  lenslet caption photo.jpg --model ./vit-gpt2-image-captioning --stream")]
pub(crate) struct Args {
    /// A picture file
    image: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let default = || catalog::first_for("image-to-text").map_or("", |entry| entry.name.as_str());
    if let Some(client) = context.client()? {
        args.model.precision.check_remote()?;
        let model = args.model.model.as_deref().unwrap_or_else(default).to_owned();
        let picture = Some(read_file(&args.image)?);
        let request = ChatRequest { model, picture, chosen: args.write.chosen()?, ..ChatRequest::default() };
        return args.write.write_remote(context.json, &client, &request);
    }
    let folder = ModelFolder::locate(args.model.model.as_deref().unwrap_or_else(default))?;
    let picture = read_picture(&args.image)?;
    let captioner = load_captioner(&folder, args.model.precision.into(), &context.options()?)?;
    let options = args.write.options(captioner.sampling().map_err(Failure::from)?);
    let stream = pollster::block_on(captioner.caption(&picture, &options)).map_err(Failure::from)?;
    args.write.write(context.json, folder.name(), Written::Here(Box::new(stream)))
}
