//! Chat templates: a conversation as the text that a model was trained on.
//!
//! A template is Jinja, written for the environment that transformers gives it: `trim_blocks` and `lstrip_blocks`, loop
//! controls, `raise_exception`, `strftime_now`, `tojson` as Python writes JSON, and the methods of Python's strings and
//! dictionaries. It comes with a model's files, so it is not trusted: work and memory are bounded, and it reaches nothing
//! but the conversation.

mod clock;
mod environment;

use serde::Deserialize;
use serde_json::Value as Json;

/// A chat template that cannot be used, or a conversation that it does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// None of the files has a template.
    #[error("the model has no chat template")]
    Missing,
    /// A file is not what its name says.
    #[error("{file} cannot be read: {detail}")]
    File {
        /// Name of the file.
        file: &'static str,
        /// Position and cause.
        detail: String,
    },
    /// There are several templates, and none of this name.
    #[error("the model has no chat template {name}; it has {available}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those there are.
        available: String,
    },
    /// The template is not valid Jinja.
    #[error("the chat template is broken: {0}")]
    Syntax(String),
    /// The template refuses the conversation, in its own words.
    #[error("the chat template refuses this conversation: {0}")]
    Raised(String),
    /// The template failed on the conversation.
    #[error("the chat template failed: {0}")]
    Render(String),
}

impl ChatError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "chat_template_missing",
            Self::File { .. } => "chat_template_file",
            Self::Unknown { .. } => "chat_template_unknown",
            Self::Syntax(_) => "chat_template_syntax",
            Self::Raised(_) => "chat_template_refused",
            Self::Render(_) => "chat_template_failed",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: Content,
}

impl Message {
    /// A message of text alone.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Message { role: role.into(), content: Content::Text(text.into()) }
    }

    /// A message of parts.
    pub fn parts(role: impl Into<String>, parts: Vec<Part>) -> Self {
        Message { role: role.into(), content: Content::Parts(parts) }
    }
}

/// What was said: as text, or in parts as the templates of models with pictures expect it. A template takes one or the
/// other; which, its model's documentation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// `content` is a string.
    Text(String),
    /// `content` is a list of `{"type": "image"}` and `{"type": "text", "text": ..}`.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A picture stands here.
    Image,
    /// Text.
    Text(String),
}

/// The bytes of the files that templates lie in; every one may be absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatFiles<'a> {
    /// `chat_template.jinja`, which comes first.
    pub jinja: Option<&'a [u8]>,
    /// `chat_template.json`, as older processors write it.
    pub json: Option<&'a [u8]>,
    /// `tokenizer_config.json`: a template, or several with names, and the special tokens.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: special tokens that `tokenizer_config.json` does not name.
    pub special_tokens: Option<&'a [u8]>,
}

impl ChatFiles<'_> {
    /// Names of the files, in the order of the fields.
    pub const NAMES: [&'static str; 4] =
        ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "special_tokens_map.json"];
}

/// What a template is told beside the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// End with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Further variables, `tools` or `enable_thinking` for instance. The keys of objects come out sorted.
    pub variables: serde_json::Map<String, Json>,
    /// The time for `strftime_now`, in seconds since 1970 of local time. `None` asks the system's clock (UTC); in a
    /// browser, where there is none to ask, a template that wants the time fails.
    pub now: Option<i64>,
}

/// A chat template with the special tokens it is told.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// `bos_token` and so on.
    tokens: Vec<(String, String)>,
}

/// The special tokens that transformers tells a template.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// The template of a model's folder. Where there are several, `name` picks one; `None` is the one named `default`.
    ///
    /// # Errors
    /// [`ChatError::Missing`], [`ChatError::File`], [`ChatError::Unknown`] and [`ChatError::Syntax`].
    pub fn from_files(files: &ChatFiles<'_>, name: Option<&str>) -> Result<Self, ChatError> {
        let [jinja, json, config, special] = ChatFiles::NAMES;
        let read = |file, bytes: Option<&[u8]>| match bytes {
            Some(bytes) => {
                serde_json::from_slice(bytes).map_err(|error| ChatError::File { file, detail: error.to_string() })
            }
            None => Ok(File::default()),
        };
        let config = read(config, files.tokenizer_config)?;
        let template = match (files.jinja, files.json) {
            (Some(bytes), _) => {
                let text = std::str::from_utf8(bytes)
                    .map_err(|error| ChatError::File { file: jinja, detail: error.to_string() })?;
                Some(Templates::One(text.to_owned()))
            }
            (None, file) => read(json, file)?.chat_template.or(config.chat_template),
        };
        let source = match template.ok_or(ChatError::Missing)? {
            Templates::One(text) => text,
            Templates::Many(mut all) => {
                let wanted = name.unwrap_or("default");
                match all.iter().position(|t| t.name == wanted) {
                    Some(at) => all.swap_remove(at).template,
                    None => {
                        let available: Vec<_> = all.into_iter().map(|t| t.name).collect();
                        return Err(ChatError::Unknown { name: wanted.into(), available: available.join(", ") });
                    }
                }
            }
        };
        let mut tokens = read(special, files.special_tokens)?.rest;
        tokens.extend(config.rest.into_iter().filter(|(_, token)| !token.is_null()));
        let text = |name: &str| {
            let token = tokens.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str()).map(|text| (name.to_owned(), text.to_owned()))
        };
        Self::new(source, TOKENS.into_iter().filter_map(text).collect())
    }

    /// A template from its text, and the special tokens by the names that it knows them by (`bos_token`).
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(source: impl Into<String>, tokens: Vec<(String, String)>) -> Result<Self, ChatError> {
        let source = environment::prepare(&source.into());
        environment::check(&source)?;
        Ok(ChatTemplate { source, tokens })
    }

    /// The text of a conversation. The tokenizer must not add special tokens to it: they are in there.
    ///
    /// # Errors
    /// [`ChatError::Raised`] if the template refuses the conversation, and [`ChatError::Render`].
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        environment::render(&self.source, &self.tokens, messages, options)
    }
}

/// What is read of the JSON files.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    chat_template: Option<Templates>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Json>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Many(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[cfg(test)]
mod tests;
