//! BLEU-4 of a corpus: Papineni, Roukos, Ward and Zhu, "BLEU: a Method for Automatic Evaluation of Machine Translation",
//! ACL 2002. One reference each, words as white space parts them, no smoothing.

use std::collections::HashMap;

/// The longest sequences of words that are counted.
const LONGEST: usize = 4;

/// BLEU-4 of texts against one reference each, from 0 to 1.
pub fn bleu4<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    let (mut found, mut all) = ([0usize; LONGEST], [0usize; LONGEST]);
    let (mut length, mut reference_length) = (0, 0);
    for (text, reference) in pairs {
        let text: Vec<&str> = text.split_whitespace().collect();
        let reference: Vec<&str> = reference.split_whitespace().collect();
        length += text.len();
        reference_length += reference.len();
        for n in 1..=LONGEST {
            let mut left = counts(&reference, n);
            for gram in text.windows(n) {
                all[n - 1] += 1;
                // Each occurrence in the reference counts once.
                if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
                    *count -= 1;
                    found[n - 1] += 1;
                }
            }
        }
    }
    if found.contains(&0) {
        return 0.0;
    }
    let logs = found.iter().zip(&all).map(|(&f, &a)| (f as f64 / a as f64).ln()).sum::<f64>();
    let brevity = (1.0 - reference_length as f64 / length as f64).min(0.0);
    (logs / LONGEST as f64 + brevity).exp()
}

fn counts<'w>(words: &'w [&'w str], n: usize) -> HashMap<&'w [&'w str], usize> {
    let mut counts = HashMap::new();
    for gram in words.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_what_the_definition_gives_by_hand() {
        let same = "the cat sat on the mat";
        assert!((bleu4([(same, same)]) - 1.0).abs() < 1e-12);
        assert_eq!(bleu4([("a b", "a b")]), 0.0, "no sequence of four words");
        // 1-grams 5 of 6 (one "the" too many), 2-grams 3 of 5, 3-grams 2 of 4, 4-grams 1 of 3; no brevity penalty.
        let got = bleu4([("the cat sat on the the", "the cat sat on a mat")]);
        let grams = [("the", 1), ("cat", 1), ("sat", 1), ("on", 1)].iter().map(|g| g.1).sum::<usize>();
        let want = ((grams as f64 / 6.0) * (3.0 / 5.0) * (2.0 / 4.0) * (1.0 / 3.0)).powf(0.25);
        assert!((got - want).abs() < 1e-12, "{got} {want}");
        // Half as long as the reference: exp(1 - 8 / 4).
        let short = bleu4([("a b c d", "a b c d e f g h")]);
        assert!((short - (-1f64).exp()).abs() < 1e-12);
    }
}
