//! The scan: best matches of a query among all vectors.

use std::cmp::Ordering;

use super::{Index, IndexError, Vectors};
use crate::tasks::similarity::{dot, dot_i8, quantise};

/// With re-ranking, this many candidates are scored again for each one asked for.
const CANDIDATES: usize = 4;

/// A match.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Name of the item.
    pub path: String,
    /// Cosine of the angle between query and item, at most 1 but for rounding.
    pub score: f32,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchOptions {
    /// Number of matches.
    pub k: usize,
    /// For int8 vectors: whether the best candidates of the integer scan are scored again with the
    /// query at full precision, which takes out half of the rounding.
    pub rerank: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { k: 10, rerank: true }
    }
}

impl Index {
    /// The `k` items closest to the query, best first; equal scores in the order of their paths.
    ///
    /// # Errors
    /// [`IndexError::Dimension`] and [`IndexError::NotFinite`].
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>, IndexError> {
        self.search_with(query, SearchOptions { k, ..SearchOptions::default() })
    }

    /// As [`Index::search`], with all options.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_with(&self, query: &[f32], options: SearchOptions) -> Result<Vec<Hit>, IndexError> {
        let query = self.unit(query, "the query")?;
        let best = match &self.vectors {
            Vectors::F32(values) => {
                let scores = (0..self.len()).map(|row| dot(self.slice(values, row), &query));
                self.best(scores.enumerate(), options.k)
            }
            Vectors::Int8 { codes, scales } => {
                let mut query_codes = vec![0; self.dim];
                let query_scale = quantise(&query, &mut query_codes);
                let scores = (0..self.len()).map(|row| {
                    let sum = dot_i8(self.slice(codes, row), &query_codes);
                    sum as f32 * (scales[row] * query_scale)
                });
                if options.rerank {
                    let wide = options.k.saturating_mul(CANDIDATES);
                    let candidates = self.best(scores.enumerate(), wide);
                    let exact =
                        candidates.into_iter().map(|(row, _)| (row, dot(&self.vectors.row(row, self.dim), &query)));
                    self.best(exact, options.k)
                } else {
                    self.best(scores.enumerate(), options.k)
                }
            }
        };
        Ok(best.into_iter().map(|(row, score)| Hit { path: self.entries[row].path.clone(), score }).collect())
    }

    fn slice<'a, T>(&self, values: &'a [T], row: usize) -> &'a [T] {
        &values[row * self.dim..(row + 1) * self.dim]
    }

    /// The `k` best rows in order.
    fn best(&self, scored: impl Iterator<Item = (usize, f32)>, k: usize) -> Vec<(usize, f32)> {
        if k == 0 {
            return Vec::new();
        }
        // Adding zero makes -0 and 0 equal.
        let mut scored: Vec<_> = scored.map(|(row, score)| (row, score + 0.0)).collect();
        let order = |a: &(usize, f32), b: &(usize, f32)| -> Ordering {
            let by_path = || self.entries[a.0].path.cmp(&self.entries[b.0].path);
            b.1.total_cmp(&a.1).then_with(by_path)
        };
        if k < scored.len() {
            scored.select_nth_unstable_by(k - 1, order);
            scored.truncate(k);
        }
        scored.sort_unstable_by(order);
        scored
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{filled, fingerprint};
    use super::super::{Entry, VectorType};
    use super::*;
    use crate::tasks::similarity::cosine;
    use crate::tasks::testing::Random;

    fn naive(index: &Index, query: &[f32]) -> Vec<(String, f32)> {
        let mut all: Vec<_> = index
            .entries()
            .iter()
            .map(|entry| (entry.path.clone(), cosine(&index.vector(&entry.path).unwrap(), query)))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn equals_the_naive_search() {
        let mut random = Random(9);
        for (count, dim) in [(1, 1), (7, 3), (200, 17), (333, 64)] {
            let index = filled(VectorType::F32, count, dim, 5);
            for k in [0, 1, 5, count, count + 10] {
                let query = random.vector(dim);
                let hits = index.search(&query, k).unwrap();
                assert_eq!(hits.len(), k.min(count));
                for (hit, (_, score)) in hits.iter().zip(naive(&index, &query)) {
                    assert!((hit.score - score).abs() < 1e-5, "{count} {dim} {k}");
                }
                assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
            }
        }
    }

    #[test]
    fn int8_stays_close_and_reranking_helps() {
        let mut random = Random(10);
        let index = filled(VectorType::Int8, 300, 64, 6);
        let (mut with, mut without) = (0.0, 0.0);
        for _ in 0..50 {
            let query = random.vector(64);
            let error = |rerank| {
                let hits = index.search_with(&query, SearchOptions { k: 10, rerank }).unwrap();
                let expected = naive(&index, &query);
                hits.iter()
                    .zip(&expected)
                    .map(|(hit, (_, score))| {
                        assert!((hit.score - score).abs() < 0.01);
                        f64::from((hit.score - score).abs())
                    })
                    .sum::<f64>()
            };
            with += error(true);
            without += error(false);
        }
        assert!(with < without / 3.0, "{with} {without}");
    }

    #[test]
    fn ties_are_ordered_by_path_however_they_came_in() {
        for kind in [VectorType::F32, VectorType::Int8] {
            let mut index = Index::new(fingerprint("a"), "m", 2, kind);
            for path in ["d", "b", "e", "a", "c"] {
                index.add(Entry::new(path), &[1.0, 1.0]).unwrap();
            }
            index.remove("e");
            index.add(Entry::new("best"), &[1.0, 0.0]).unwrap();
            let hits = index.search(&[2.0, 0.0], 4).unwrap();
            let paths: Vec<_> = hits.iter().map(|hit| hit.path.as_str()).collect();
            assert_eq!(paths, ["best", "a", "b", "c"], "{kind:?}");
        }
    }

    #[test]
    fn zero_vectors_and_odd_queries() {
        let mut index = Index::new(fingerprint("a"), "m", 2, VectorType::Int8);
        assert_eq!(index.search(&[1.0, 0.0], 3).unwrap(), []);
        index.add(Entry::new("zero"), &[0.0, 0.0]).unwrap();
        assert_eq!(index.search(&[-1.0, 0.0], 3).unwrap()[0].score.to_bits(), 0);
        assert_eq!(index.search(&[0.0, 0.0], 3).unwrap()[0].score, 0.0);
        assert_eq!(index.search(&[1.0], 3).unwrap_err().kind(), "index_dimension");
        let error = index.search(&[f32::INFINITY, 0.0], 3).unwrap_err();
        assert_eq!(error.kind(), "index_not_finite");
    }
}
