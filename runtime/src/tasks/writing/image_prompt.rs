//! The place of a picture in a prompt: one token stands for it in the text, as many tokens as the encoder gives rows stand
//! for it in the sequence, with marks around them that say which tile is which.

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::WritingError;
use crate::tasks::config::ConfigError;

/// The tokens of a picture, as a model's files name them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImagePrompt {
    /// The token in whose place a row of features stands.
    pub(super) id: u32,
    /// Its text.
    pub(super) token: String,
    /// What stands around a picture and what names the whole one, for models that mark them.
    marks: Option<[String; 2]>,
}

/// `config.json`.
#[derive(Default, Deserialize)]
struct Model {
    image_token_id: Option<u32>,
    image_token_index: Option<u32>,
}

/// `tokenizer_config.json`: special tokens with names of their own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    fake_image_token: Option<String>,
    global_image_token: Option<String>,
    extra_special_tokens: Option<Box<Names>>,
}

impl ImagePrompt {
    /// Reads which tokens these are.
    pub(super) fn new(
        model: Option<&[u8]>,
        tokenizer_config: Option<&[u8]>,
        tokenizer: &Tokenizer,
    ) -> Result<ImagePrompt, WritingError> {
        let failed = |file, detail: serde_json::Error| ConfigError::Parse { file, detail: detail.to_string() };
        let model: Model = serde_json::from_slice(model.unwrap_or(b"{}")).map_err(|e| failed("config.json", e))?;
        let names: Names = serde_json::from_slice(tokenizer_config.unwrap_or(b"{}"))
            .map_err(|e| failed("tokenizer_config.json", e))?;
        let id = model.image_token_id.or(model.image_token_index);
        let id = id.ok_or_else(|| WritingError::Incomplete("config.json does not say image_token_id".into()))?;
        let token = tokenizer.id_to_token(id);
        let token = token
            .ok_or_else(|| WritingError::Incomplete(format!("the tokenizer does not have the image token {id}")))?;
        let extra = names.extra_special_tokens.unwrap_or_default();
        let fake = names.fake_image_token.or(extra.fake_image_token);
        let fake = fake.unwrap_or_else(|| "<fake_token_around_image>".into());
        let global = names.global_image_token.or(extra.global_image_token);
        let global = global.unwrap_or_else(|| "<global-img>".into());
        // A vocabulary without the mark belongs to a model that has no use for it.
        let marks = tokenizer.token_to_id(&fake).is_some().then_some([fake, global]);
        Ok(ImagePrompt { id, token, marks })
    }

    /// The text that stands for a picture of `rows` rows of features in each of its squares.
    pub(super) fn expansion(&self, grid: [usize; 2], squares: usize, rows: usize) -> String {
        let square = self.token.repeat(rows);
        let Some([fake, global]) = &self.marks else { return square.repeat(squares) };
        let mut text = String::new();
        for row in 1..=grid[0] {
            for column in 1..=grid[1] {
                text.push_str(&format!("{fake}<row_{row}_col_{column}>{square}"));
            }
            text.push('\n');
        }
        if grid != [0, 0] {
            text.push('\n');
        }
        text + &format!("{fake}{global}{square}{fake}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(marks: bool) -> ImagePrompt {
        let marks = marks.then(|| ["<f>".into(), "<g>".into()]);
        ImagePrompt { id: 9, token: "<i>".into(), marks }
    }

    #[test]
    fn tiles_are_named_row_by_row_and_the_whole_comes_last() {
        let text = prompt(true).expansion([1, 2], 3, 2);
        assert_eq!(text, "<f><row_1_col_1><i><i><f><row_1_col_2><i><i>\n\n<f><g><i><i><f>");
        assert_eq!(prompt(true).expansion([0, 0], 1, 1), "<f><g><i><f>");
        assert_eq!(prompt(false).expansion([0, 0], 1, 3), "<i><i><i>");
    }
}
