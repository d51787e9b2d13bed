//! The JSON files beside a model, as typed structs.
//!
//! Read from bytes, because a browser has no file system. Fields that nothing here uses are
//! ignored, and both old and new spellings are accepted: Hugging Face's processors have written
//! sizes as `224`, as `{"height": .., "width": ..}` and as `{"shortest_edge": ..}`, special tokens
//! as strings and as objects, and "no limit" as the number 1e30.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// A configuration file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not JSON, or a field has a type that no known writer produces.
    #[error("{file} cannot be read: {detail}")]
    Parse {
        /// Name of the file, relative to the model's folder.
        file: &'static str,
        /// Position and cause, as the JSON reader says it.
        detail: String,
    },
    /// The file asks for something that this version does not do.
    #[error("{file}: {field} = {value} is not supported")]
    Unsupported {
        /// Name of the file, relative to the model's folder.
        file: &'static str,
        /// Field in question.
        field: &'static str,
        /// Its value in the file.
        value: String,
    },
    /// A field without which the task cannot be done is missing.
    #[error("{file} lacks {field}")]
    Missing {
        /// Name of the file, relative to the model's folder.
        file: &'static str,
        /// Field in question.
        field: &'static str,
    },
}

impl ConfigError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Parse { .. } => "config_parse",
            Self::Unsupported { .. } => "config_unsupported",
            Self::Missing { .. } => "config_missing",
        }
    }
}

pub(crate) const MODEL: &str = "config.json";
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
pub(crate) const TOKENIZER: &str = "tokenizer_config.json";
pub(crate) const SENTENCE: &str = "sentence_bert_config.json";
pub(crate) const POOLING: &str = "1_Pooling/config.json";
pub(crate) const SPECIAL_TOKENS: &str = "special_tokens_map.json";

/// The bytes of a model folder's configuration files; every one may be absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConfigFiles<'a> {
    /// `config.json`.
    pub model: Option<&'a [u8]>,
    /// `preprocessor_config.json`.
    pub preprocessor: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// `sentence_bert_config.json`.
    pub sentence: Option<&'a [u8]>,
    /// `1_Pooling/config.json`.
    pub pooling: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<&'a [u8]>,
}

impl ConfigFiles<'_> {
    /// Names of the files, relative to the model's folder, in the order of the fields.
    pub const NAMES: [&'static str; 6] = [MODEL, PREPROCESSOR, TOKENIZER, SENTENCE, POOLING, SPECIAL_TOKENS];
}

/// What a model folder says about itself. Absent files leave defaults.
#[derive(Debug, Clone, Default)]
pub struct FolderConfig {
    /// `config.json`.
    pub model: ModelConfig,
    /// `preprocessor_config.json`, if the model takes pictures.
    pub preprocessor: Option<PreprocessorConfig>,
    /// `tokenizer_config.json`, completed by `special_tokens_map.json`.
    pub tokenizer: TokenizerConfig,
    /// `sentence_bert_config.json`.
    pub sentence: SentenceConfig,
    /// `1_Pooling/config.json`, if the folder has one.
    pub pooling: Option<PoolingConfig>,
}

impl FolderConfig {
    /// Parses every file that is there.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] names the first file that is not what its name says.
    pub fn parse(files: &ConfigFiles<'_>) -> Result<Self, ConfigError> {
        let special: SpecialTokens = parse_optional(SPECIAL_TOKENS, files.special_tokens)?.unwrap_or_default();
        let mut tokenizer: TokenizerConfig = parse_optional(TOKENIZER, files.tokenizer)?.unwrap_or_default();
        tokenizer.special.fill_from(special);
        Ok(Self {
            model: parse_optional(MODEL, files.model)?.unwrap_or_default(),
            preprocessor: parse_optional(PREPROCESSOR, files.preprocessor)?,
            tokenizer,
            sentence: parse_optional(SENTENCE, files.sentence)?.unwrap_or_default(),
            pooling: parse_optional(POOLING, files.pooling)?,
        })
    }

    /// The longest token sequence that the text tower takes, special tokens included: the smallest
    /// of the limits that the folder states, or `None` if it states none.
    pub fn context_length(&self) -> Option<usize> {
        [self.tokenizer.model_max_length, self.sentence.max_seq_length, self.model.text_positions()]
            .into_iter()
            .flatten()
            .min()
    }
}

fn parse_optional<T: DeserializeOwned>(file: &'static str, bytes: Option<&[u8]>) -> Result<Option<T>, ConfigError> {
    bytes.map(|bytes| parse(file, bytes)).transpose()
}

fn parse<T: DeserializeOwned>(file: &'static str, bytes: &[u8]) -> Result<T, ConfigError> {
    // Some editors put a byte-order mark in front; JSON does not allow it.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).map_err(|error| ConfigError::Parse { file, detail: error.to_string() })
}

/// `config.json`: the part that tasks need. Graph facts come from the graph itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// Width of the shared space of a dual tower.
    pub projection_dim: Option<usize>,
    /// Trained logit scale (natural logarithm), where the exporter wrote it down.
    pub logit_scale: Option<f32>,
    /// The value that training started from (natural logarithm). Not the trained one.
    pub logit_scale_init_value: Option<f32>,
    /// Trained logit bias of a model with a sigmoid loss, where the exporter wrote it down.
    pub logit_bias: Option<f32>,
    /// Positions of a single-tower text model.
    pub max_position_embeddings: Option<usize>,
    /// The same in GPT-2's spelling.
    pub n_positions: Option<usize>,
    /// Padding token of a single-tower text model.
    pub pad_token_id: Option<u32>,
    /// The text tower's own section.
    pub text_config: Option<TextConfig>,
    /// The image tower's own section.
    pub vision_config: Option<VisionConfig>,
}

/// `text_config` in `config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Positions that the tower has embeddings for.
    pub max_position_embeddings: Option<usize>,
    /// The same in GPT-2's spelling.
    pub n_positions: Option<usize>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
}

/// `vision_config` in `config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Height and width of the input picture in pixels.
    pub image_size: Option<SizeSpec>,
}

impl ModelConfig {
    /// Number of token positions of the text tower, if the file says it.
    pub fn text_positions(&self) -> Option<usize> {
        let text = self.text_config.as_ref();
        text.and_then(|text| text.max_position_embeddings.or(text.n_positions))
            .or(self.max_position_embeddings)
            .or(self.n_positions)
    }
}

/// A size in any of the forms that image processors write, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SizeSpec {
    /// One number; its meaning depends on the processor.
    One(u32),
    /// `[height, width]`.
    Pair([u32; 2]),
    /// Named edges.
    Edges {
        /// Exact height.
        height: Option<u32>,
        /// Exact width.
        width: Option<u32>,
        /// Length of the shorter edge; the other follows from the picture's proportions.
        shortest_edge: Option<u32>,
        /// Largest length of the longer edge.
        longest_edge: Option<u32>,
    },
}

/// `preprocessor_config.json` as written. [`crate::tasks::image::Preprocessor`] gives it meaning.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PreprocessorConfig {
    /// The algorithm that wrote the file; only its defaults matter here.
    #[serde(alias = "feature_extractor_type")]
    pub image_processor_type: Option<String>,
    /// Whether to drop or flatten alpha. Graphs take three channels, so it always happens.
    pub do_convert_rgb: Option<bool>,
    /// Whether to resize.
    pub do_resize: Option<bool>,
    /// Target of the resize.
    pub size: Option<SizeSpec>,
    /// Whether a size of one number means a square rather than the shorter edge.
    pub default_to_square: Option<bool>,
    /// Pillow's code of the filter, 0 to 5.
    pub resample: Option<u8>,
    /// Share of the resized picture that the crop keeps (ConvNeXt's processor).
    pub crop_pct: Option<f64>,
    /// Whether to cut out the centre.
    pub do_center_crop: Option<bool>,
    /// Size of the centre crop.
    pub crop_size: Option<SizeSpec>,
    /// Whether to multiply by `rescale_factor`.
    pub do_rescale: Option<bool>,
    /// Usually 1/255.
    pub rescale_factor: Option<f64>,
    /// Whether to subtract the mean and divide by the standard deviation.
    pub do_normalize: Option<bool>,
    /// Mean per channel, after rescaling.
    pub image_mean: Option<Vec<f64>>,
    /// Standard deviation per channel, after rescaling.
    pub image_std: Option<Vec<f64>>,
    /// Whether the picture is cut into tiles.
    pub do_image_splitting: Option<bool>,
    /// Side of a tile, as its longest edge.
    pub max_image_size: Option<SizeSpec>,
    /// Whether pictures are padded to a common size.
    pub do_pad: Option<bool>,
    /// Whether the graph wants blue first.
    pub do_flip_channel_order: Option<bool>,
    /// Whether 1 is subtracted after rescaling.
    pub rescale_offset: Option<bool>,
}

impl PreprocessorConfig {
    /// Parses the bytes of a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] if it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        parse(PREPROCESSOR, bytes)
    }
}

/// The end of a sequence that is cut or padded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

/// `tokenizer_config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TokenizerConfig {
    /// Longest sequence, special tokens included; `None` where the file says "no limit".
    #[serde(deserialize_with = "limit")]
    pub model_max_length: Option<usize>,
    /// Which end is padded.
    #[serde(deserialize_with = "null_is_default")]
    pub padding_side: Side,
    /// Which end is cut.
    #[serde(deserialize_with = "null_is_default")]
    pub truncation_side: Side,
    /// Graph inputs that the tokenizer makes, where the file says it.
    pub model_input_names: Option<Vec<String>>,
    /// Text of the special tokens.
    #[serde(flatten)]
    pub special: SpecialTokens,
}

/// The special tokens that tasks need to know, by their text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SpecialTokens {
    /// Fills short sequences.
    #[serde(deserialize_with = "token")]
    pub pad_token: Option<String>,
    /// Ends a sequence.
    #[serde(deserialize_with = "token")]
    pub eos_token: Option<String>,
    /// Begins a sequence.
    #[serde(deserialize_with = "token")]
    pub bos_token: Option<String>,
}

impl SpecialTokens {
    fn fill_from(&mut self, other: Self) {
        self.pad_token = self.pad_token.take().or(other.pad_token);
        self.eos_token = self.eos_token.take().or(other.eos_token);
        self.bos_token = self.bos_token.take().or(other.bos_token);
    }
}

/// `sentence_bert_config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SentenceConfig {
    /// Longest sequence, special tokens included.
    #[serde(deserialize_with = "limit")]
    pub max_seq_length: Option<usize>,
    /// Whether text is lower-cased before the tokenizer sees it.
    #[serde(deserialize_with = "null_is_default")]
    pub do_lower_case: bool,
}

/// `1_Pooling/config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PoolingConfig {
    /// Mode by name, as recent writers store it.
    pub pooling_mode: Option<String>,
    /// First token.
    pub pooling_mode_cls_token: bool,
    /// Mean over the tokens that the mask keeps.
    pub pooling_mode_mean_tokens: bool,
    /// Largest value per dimension over the tokens that the mask keeps.
    pub pooling_mode_max_tokens: bool,
    /// Sum divided by the square root of the number of tokens.
    pub pooling_mode_mean_sqrt_len_tokens: bool,
    /// Mean weighted by position.
    pub pooling_mode_weightedmean_tokens: bool,
    /// Last token that the mask keeps.
    pub pooling_mode_lasttoken: bool,
}

/// Limits of a billion and more mean "none" (the writers put 1e30 there).
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let value = Option::<f64>::deserialize(deserializer)?;
    Ok(value.filter(|value| (1.0..1e9).contains(value)).map(|value| value as usize))
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Object { content: String },
    }
    Ok(Option::<Token>::deserialize(deserializer)?.map(|token| match token {
        Token::Text(text) | Token::Object { content: text } => text,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocessor(json: &str) -> PreprocessorConfig {
        PreprocessorConfig::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn sizes_in_every_form() {
        assert_eq!(preprocessor(r#"{"size": 224}"#).size, Some(SizeSpec::One(224)));
        assert_eq!(preprocessor(r#"{"size": [3, 4]}"#).size, Some(SizeSpec::Pair([3, 4])));
        let edges = |height, width, shortest_edge, longest_edge| {
            Some(SizeSpec::Edges { height, width, shortest_edge, longest_edge })
        };
        assert_eq!(preprocessor(r#"{"size": {"shortest_edge": 224}}"#).size, edges(None, None, Some(224), None));
        assert_eq!(
            preprocessor(r#"{"crop_size": {"height": 2, "width": 3}}"#).crop_size,
            edges(Some(2), Some(3), None, None)
        );
        assert_eq!(preprocessor(r#"{"size": null}"#).size, None);
    }

    #[test]
    fn unknown_fields_are_ignored_and_types_are_not() {
        preprocessor(r#"{"processor_class": "X", "return_tensors": {"a": [1]}}"#);
        let error = PreprocessorConfig::parse(br#"{"size": "large"}"#).unwrap_err();
        assert_eq!(error.kind(), "config_parse");
        assert!(error.to_string().starts_with("preprocessor_config.json"), "{error}");
        assert!(PreprocessorConfig::parse(b"").is_err());
        assert!(PreprocessorConfig::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn tokens_as_text_and_as_objects() {
        let files = ConfigFiles {
            tokenizer: Some(
                br#"{"pad_token": {"content": "<pad>", "lstrip": false}, "eos_token": null,
                     "model_max_length": 1000000000000000019884624838656, "padding_side": "left"}"#,
            ),
            special_tokens: Some(br#"{"pad_token": "other", "eos_token": "</s>"}"#),
            ..Default::default()
        };
        let config = FolderConfig::parse(&files).unwrap();
        assert_eq!(config.tokenizer.special.pad_token.as_deref(), Some("<pad>"));
        assert_eq!(config.tokenizer.special.eos_token.as_deref(), Some("</s>"));
        assert_eq!(config.tokenizer.padding_side, Side::Left);
        assert_eq!(config.tokenizer.model_max_length, None);
        assert_eq!(config.context_length(), None);
    }

    #[test]
    fn context_is_the_smallest_limit() {
        let files = ConfigFiles {
            model: Some(br#"{"text_config": {"max_position_embeddings": 77}}"#),
            tokenizer: Some(br#"{"model_max_length": 512}"#),
            sentence: Some(br#"{"max_seq_length": 64, "do_lower_case": null}"#),
            ..Default::default()
        };
        let mut config = FolderConfig::parse(&files).unwrap();
        assert_eq!(config.context_length(), Some(64));
        config.sentence.max_seq_length = None;
        assert_eq!(config.context_length(), Some(77));
        config.model.text_config = None;
        assert_eq!(config.context_length(), Some(512));
    }

    #[test]
    fn an_empty_folder_is_fine() {
        let config = FolderConfig::parse(&ConfigFiles::default()).unwrap();
        assert!(config.preprocessor.is_none() && config.pooling.is_none());
    }
}
