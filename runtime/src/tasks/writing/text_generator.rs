//! Text after text: completion, and chat by the model's own template.

use super::{TextStream, Writer, WritingError, WritingFiles, WritingOptions};
#[cfg(feature = "chat")]
use crate::generate::{ChatOptions, ChatTemplate, Message};
use crate::generate::{Decoder, Prompt, Sampling};

/// Continues texts and answers in chats.
pub struct TextGenerator {
    writer: Writer,
    #[cfg(feature = "chat")]
    chat: Option<ChatTemplate>,
}

impl TextGenerator {
    /// Puts the decoder and its configuration together.
    ///
    /// # Errors
    /// [`WritingError`] names the file that does not fit.
    pub fn new(decoder: Decoder, files: &WritingFiles<'_>) -> Result<TextGenerator, WritingError> {
        #[cfg(feature = "chat")]
        let chat = super::chat_template(files)?;
        Ok(TextGenerator {
            writer: Writer::new(decoder, files)?,
            #[cfg(feature = "chat")]
            chat,
        })
    }

    /// How the folder says that tokens are chosen.
    ///
    /// # Errors
    /// [`WritingError::Sampling`] if what it says means nothing.
    pub fn sampling(&self) -> Result<Sampling, WritingError> {
        Ok(self.writer.settings.generation.sampling(0)?)
    }

    /// The decoder behind its texts.
    pub fn decoder(&self) -> &Decoder {
        &self.writer.decoder
    }

    /// `gpu` or `cpu`.
    pub fn device(&self) -> &'static str {
        self.writer.decoder.device()
    }

    /// Whether the model has a chat template.
    #[cfg(feature = "chat")]
    pub fn can_chat(&self) -> bool {
        self.chat.is_some()
    }

    /// A conversation as the model's template writes it, ready for the answer.
    #[cfg(feature = "chat")]
    pub fn render(&self, messages: &[Message]) -> Result<String, WritingError> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            WritingError::Incomplete("this model has no chat template; give it a plain prompt (raw)".into())
        })?;
        Ok(chat.render(messages, &ChatOptions { add_generation_prompt: true, ..ChatOptions::default() })?)
    }

    /// Begins the answer to a conversation.
    #[cfg(feature = "chat")]
    pub async fn chat(&self, messages: &[Message], asked: &WritingOptions) -> Result<TextStream<'_>, WritingError> {
        // The template writes the special tokens.
        let tokens = self.writer.settings.encode(&self.render(messages)?, false)?;
        self.continue_tokens(tokens, asked).await
    }

    /// Begins the continuation of a text.
    pub async fn complete(&self, text: &str, asked: &WritingOptions) -> Result<TextStream<'_>, WritingError> {
        let tokens = self.writer.settings.encode(text, true)?;
        self.continue_tokens(tokens, asked).await
    }

    /// Begins the continuation of token ids.
    pub async fn continue_tokens(
        &self,
        tokens: Vec<u32>,
        asked: &WritingOptions,
    ) -> Result<TextStream<'_>, WritingError> {
        let writer = &self.writer;
        let count = tokens.len();
        let options = writer.settings.options(asked, count)?;
        let state = writer.decoder.start(1, writer.settings.limit(count, &options), vec![]);
        writer.begin(state, Prompt::from(tokens), count, options, asked, writer.pieces(asked)?).await
    }
}
