//! Inputs that no model minds, the same for every runtime: ones for ids and masks, a slow wave for pictures.

/// As many elements as a shape has.
pub(crate) fn wave(shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product()).map(|i: usize| ((i % 997) as f32 * 0.013).sin()).collect()
}

/// As many elements as a shape has.
pub(crate) fn ones<T: Clone + From<u8>>(shape: &[usize]) -> Vec<T> {
    vec![T::from(1); shape.iter().product()]
}
