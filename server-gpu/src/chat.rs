//! A conversation to answer, as engines take it.

use lenslet::generate::{Message, Sampling};
use lenslet::tasks::image::Pixels;
use lenslet::tasks::writing::{Resume, WritingOptions};

use crate::error::ServeError;

/// A turn of a conversation.
#[derive(Clone, Debug)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// All that was said in words, parts joined by line breaks.
    pub text: String,
    /// Pictures that came with it.
    pub pictures: usize,
}

/// A conversation to answer, and how.
#[derive(Debug, Default)]
pub struct ChatPrompt {
    /// The turns, oldest first.
    pub turns: Vec<Turn>,
    /// The pictures of all turns, in order.
    pub pictures: Vec<Pixels>,
    /// Tokens at most.
    pub max_tokens: Option<usize>,
    /// See [`Sampling`]; what is left out, the model's folder says.
    pub temperature: Option<f32>,
    /// See [`Sampling`].
    pub top_p: Option<f32>,
    /// See [`Sampling`].
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// What of the answer is written already, elsewhere.
    pub resume: Option<Resume>,
    /// The request as it came, for engines that hand it on; null for others.
    pub request: serde_json::Value,
}

impl ChatPrompt {
    /// The picture that the answer is about: the only one.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn picture(&self) -> Result<&Pixels, ServeError> {
        match self.pictures.as_slice() {
            [picture] => Ok(picture),
            [] => {
                let what = "this model describes pictures: send one as an image_url part with a data URL";
                Err(ServeError::bad_request("picture_missing", what).at("messages"))
            }
            several => {
                let what = format!("this model looks at one picture at a time; the request has {}", several.len());
                Err(ServeError::bad_request("too_many_pictures", what).at("messages"))
            }
        }
    }

    /// Makes sure that there is no picture.
    ///
    /// # Errors
    /// There is one.
    pub fn no_picture(&self) -> Result<(), ServeError> {
        if self.pictures.is_empty() {
            return Ok(());
        }
        Err(ServeError::bad_request("no_pictures", "this model reads text only; leave out the picture").at("messages"))
    }

    /// What the user said last.
    pub fn question(&self) -> String {
        self.turns.iter().rev().find(|turn| turn.role == "user").map(|turn| turn.text.clone()).unwrap_or_default()
    }

    /// The turns in words.
    pub fn messages(&self) -> Vec<Message> {
        self.turns.iter().map(|turn| Message::text(turn.role.clone(), turn.text.clone())).collect()
    }

    /// How the text is to be written: what the request says, and of the rest what the folder says.
    pub fn options(&self, folder: Sampling) -> WritingOptions {
        let says = self.temperature.is_some() || self.top_p.is_some() || self.seed.is_some();
        let sampling = says.then(|| Sampling {
            temperature: self.temperature.unwrap_or(folder.temperature),
            top_p: self.top_p.unwrap_or(folder.top_p),
            seed: self.seed.unwrap_or(folder.seed),
            ..folder
        });
        WritingOptions {
            sampling,
            max_new_tokens: self.max_tokens,
            stop: self.stop.clone(),
            resume: self.resume.clone(),
            ..WritingOptions::default()
        }
    }
}
