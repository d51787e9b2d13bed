//! `lenslet generate`: text from a language model.

use lenslet::generate::Message;
use lenslet_models::client::ChatRequest;
use lenslet_models::folder::ModelFolder;
use lenslet_models::writing::load_text_generator;

use crate::Outcome;
use crate::context::{Context, PrecisionArg};
use crate::failure::Failure;
use crate::write::{WriteArgs, Written};

/// Answer a prompt, or continue it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet generate --model ./SmolLM2-135M-Instruct \"What is the capital of France?\" --stream
  lenslet generate --model ./gpt2 --raw \"Once upon a time\" --max-tokens 64 --temperature 0.8 --seed 1")]
pub(crate) struct Args {
    /// The question or the beginning of the text
    prompt: String,
    /// A known name or a model's folder
    #[arg(long, short, value_name = "MODEL")]
    model: String,
    /// Which of the folder's graph files: auto takes the most exact
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionArg,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// What the model is told before the question
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    if let Some(client) = context.client()? {
        args.precision.check_remote()?;
        if args.raw {
            let what = "a server answers prompts and does not continue them";
            return Err(Failure::input("server_option", what, "leave out --raw, or use --device auto"));
        }
        let (model, question) = (args.model.clone(), Some(args.prompt.clone()));
        let (system, chosen) = (args.system.clone(), args.write.chosen()?);
        let request = ChatRequest { model, system, question, picture: None, chosen };
        return args.write.write_remote(context.json, &client, &request);
    }
    let folder = ModelFolder::locate(&args.model)?;
    let generator = load_text_generator(&folder, args.precision.into(), &context.options()?)?;
    let options = args.write.options(generator.sampling().map_err(Failure::from)?);
    let stream = pollster::block_on(async {
        if args.raw || !generator.can_chat() {
            return generator.complete(&args.prompt, &options).await;
        }
        let system = args.system.iter().map(|text| Message::text("system", text));
        let messages: Vec<Message> = system.chain([Message::text("user", &args.prompt)]).collect();
        generator.chat(&messages, &options).await
    })
    .map_err(Failure::from)?;
    args.write.write(context.json, folder.name(), Written::Here(Box::new(stream)))
}
