//! A batch of token sequences, as the text graphs take it.

/// Token ids of one or more texts, padded to one length. Row-major, `[texts, length]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token ids.
    pub input_ids: Vec<i64>,
    /// 1 for a token of the text, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// Number of texts.
    pub texts: usize,
    /// Length of every row.
    pub length: usize,
    /// Tokens of each text without padding, special tokens included.
    pub counts: Vec<usize>,
}

impl TokenBatch {
    /// Shape of the tensors.
    pub fn shape(&self) -> [usize; 2] {
        [self.texts, self.length]
    }
}
