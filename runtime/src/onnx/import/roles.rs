//! Sizes of a decoder's inputs by what the inputs are for.
//!
//! Exporters name the sizes of decoders carelessly: one name for the prompt and the mask over prompt and cache, or
//! another name for the same size. A graph with inputs `past_key_values.*` is a decoder as optimum and ONNX Runtime GenAI
//! write it, and there the meaning of each input is fixed; with sizes named by it, masks and caches are seen to fit each
//! other, which fusing needs.

use crate::graph::Dim;

/// What the names of a decoder's caches begin with.
const PAST: &str = "past_key_values.";

/// Whether a graph with inputs of these names continues from a cache.
pub(super) fn is_decoder<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|n| n.starts_with(PAST))
}

/// The size of dimension `axis` of a decoder's input `name` of `rank` dimensions, if its role says it.
pub(super) fn dim(name: &str, axis: usize, rank: usize) -> Option<Dim> {
    let past = Dim::symbol("past_sequence_length");
    let fresh = Dim::symbol("sequence_length");
    let encoder = Dim::symbol("encoder_sequence_length");
    match (name, axis, rank) {
        ("use_cache_branch", ..) => None,
        (_, 0, 2..) => Some(Dim::symbol("batch_size")),
        ("input_ids" | "position_ids", 1, 2) | ("inputs_embeds", 1, 3) => Some(fresh),
        ("attention_mask", 1, 2) => Some(past.add(&fresh)),
        ("encoder_hidden_states", 1, 3) | ("encoder_attention_mask", 1, 2) => Some(encoder),
        // In the branch that does not read it, the cache of cross-attention is empty: its length is its own.
        (_, 2, 4) if name.starts_with(PAST) && name.contains(".encoder.") => Some(Dim::symbol("past_encoder_length")),
        (_, 2, 4) if name.starts_with(PAST) => Some(past),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_covers_cache_and_new_tokens() {
        assert!(is_decoder(["input_ids", "past_key_values.0.key"].into_iter()));
        assert!(!is_decoder(["input_ids", "attention_mask"].into_iter()));
        let mask = dim("attention_mask", 1, 2).unwrap();
        let cache = dim("past_key_values.3.value", 2, 4).unwrap();
        assert_eq!(mask, cache.add(&dim("input_ids", 1, 2).unwrap()));
        assert_ne!(dim("past_key_values.3.encoder.key", 2, 4), Some(cache));
        assert_eq!(dim("past_key_values.3.value", 1, 4), None, "heads are told by the file");
    }
}
