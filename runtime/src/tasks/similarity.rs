//! Comparing vectors.

/// Dot product of two vectors of one length; for unit vectors the cosine of their angle.
///
/// The order of additions is fixed (eight lanes, then these pairwise), so that every target gives the
/// same bits, with vector instructions or without.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut lanes = [0.0f32; 8];
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += a * b;
    }
    ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))
}

/// Exact dot product of two int8 vectors of one length. Fits an `i32` up to a length of 131,071.
pub fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// Cosine of the angle between two vectors of any length; 0 if either is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let sum = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let norm = (sum(a, a) * sum(b, b)).sqrt();
    if norm > 0.0 { (sum(a, b) / norm) as f32 } else { 0.0 }
}

/// A vector as int8 with one scale: `value = code * scale`, codes from -127 to 127, so that the code
/// of a negated vector is the negated code.
///
/// Codes are the nearest whole numbers, halves away from zero. A zero vector has scale 0.
pub fn quantise(vector: &[f32], codes: &mut [i8]) -> f32 {
    debug_assert_eq!(vector.len(), codes.len());
    let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 {
        codes.fill(0);
        return 0.0;
    }
    let scale = largest / 127.0;
    for (code, &value) in codes.iter_mut().zip(vector) {
        // The cast saturates; the quotient exceeds 127 by rounding at most.
        *code = (value / largest * 127.0).round() as i8;
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::testing::Random;

    #[test]
    fn dot_is_the_sum_of_products() {
        let mut random = Random(1);
        for len in 0..40 {
            let (a, b) = (random.vector(len), random.vector(len));
            let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-5, "{len}");
        }
    }

    #[test]
    fn dot_i8_reaches_the_ends() {
        assert_eq!(dot_i8(&[-128; 2048], &[-128; 2048]), 2048 * 16384);
        assert_eq!(dot_i8(&[-128, 127], &[127, 127]), -127);
        assert_eq!(dot_i8(&[], &[]), 0);
    }

    #[test]
    fn quantised_vectors_stay_close() {
        let mut random = Random(2);
        for _ in 0..50 {
            let vector = random.vector(33);
            let mut codes = [0; 33];
            let scale = quantise(&vector, &mut codes);
            for (&code, &value) in codes.iter().zip(&vector) {
                assert!((f32::from(code) * scale - value).abs() <= scale * 0.5001);
            }
            assert!(codes.iter().any(|code| code.unsigned_abs() == 127));
        }
        let mut codes = [1; 4];
        assert_eq!(quantise(&[0.0; 4], &mut codes), 0.0);
        assert_eq!(codes, [0; 4]);
        // The smallest positive number: its scale would round to zero.
        assert!(quantise(&[1e-45, 0.0, -1e-45, 0.0], &mut codes) >= 0.0);
        assert_eq!(codes, [127, 0, -127, 0]);
    }

    #[test]
    fn cosine_ignores_length() {
        assert!((cosine(&[3.0, 4.0], &[6e20, 8e20]) - 1.0).abs() < 1e-6);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }
}
