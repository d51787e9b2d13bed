//! The same best pictures on every backend: queries over a part of the emoji, against ONNX Runtime's similarities.

use serde::Deserialize;

/// How many of the best pictures must be the same.
const TOP: usize = 10;

/// Pictures whose similarities differ by less are tied: either may come first.
const TIE: f32 = 1e-4;

/// How far a similarity may be from ONNX Runtime's.
const FAR: f32 = 1e-3;

/// Queries, pictures and how similar they are.
#[derive(Deserialize)]
pub struct Ranking {
    /// Files below `emoji-clip` in the test material.
    pub pictures: Vec<String>,
    /// Texts.
    pub queries: Vec<String>,
    /// A row a query, a column a picture.
    pub similarities: Vec<Vec<f32>>,
}

impl Ranking {
    /// Reads `tests/goldens/emoji-ranking.json`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let ranking: Ranking = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let complete = ranking.similarities.len() == ranking.queries.len()
            && ranking.similarities.iter().all(|row| row.len() == ranking.pictures.len());
        if !complete || ranking.pictures.len() <= TOP || ranking.queries.is_empty() {
            return Err("a similarity of each query with each picture is wanted".into());
        }
        Ok(ranking)
    }

    /// The same with `count` of the pictures, spread over all of them, for devices that are slow.
    #[must_use]
    pub fn part(mut self, count: usize) -> Self {
        let step = (self.pictures.len() / count.max(TOP + 1)).max(1);
        let thin = |n: usize| n.is_multiple_of(step) && n / step < count;
        let mut n = 0..;
        self.pictures.retain(|_| n.next().is_some_and(thin));
        for row in &mut self.similarities {
            let mut n = 0..;
            row.retain(|_| n.next().is_some_and(thin));
        }
        self
    }

    /// Compares the ranking that follows from vectors of unit length. Returns the greatest difference of a similarity.
    ///
    /// # Errors
    /// Names the first query whose best pictures differ.
    pub fn check(&self, pictures: &[Vec<f32>], queries: &[Vec<f32>]) -> Result<f32, String> {
        if pictures.len() != self.pictures.len() || queries.len() != self.queries.len() {
            return Err("some vectors are missing".into());
        }
        let mut worst = 0f32;
        for ((name, query), want) in self.queries.iter().zip(queries).zip(&self.similarities) {
            let got: Vec<f32> = pictures.iter().map(|p| p.iter().zip(query).map(|(a, b)| a * b).sum()).collect();
            let far = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
            if !got.iter().all(|s| s.is_finite()) || far > FAR {
                return Err(format!("{name:?}: a similarity is {far} away"));
            }
            worst = worst.max(far);
            let (mine, theirs) = (best(&got), best(want));
            for (rank, (&m, &t)) in mine.iter().zip(&theirs).enumerate() {
                if m != t && (want[m] - want[t]).abs() > TIE {
                    let (m, t) = (&self.pictures[m], &self.pictures[t]);
                    return Err(format!("{name:?}: number {} is {m} instead of {t}", rank + 1));
                }
            }
        }
        Ok(worst)
    }
}

/// The places of the greatest numbers, greatest first.
fn best(similarities: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..similarities.len()).collect();
    order.sort_by(|&a, &b| similarities[b].total_cmp(&similarities[a]));
    order.truncate(TOP);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_is_seen_and_a_tie_is_not() {
        let picture = |similarity: f32| vec![similarity, 1.0 - similarity];
        let given: Vec<f32> = (0..12).map(|i| 0.9 - 0.05 * i as f32).collect();
        let ranking = Ranking {
            pictures: (0..12).map(|i| format!("{i}.png")).collect(),
            queries: vec!["q".into()],
            similarities: vec![given.clone()],
        };
        let query = [vec![1.0, 0.0]];
        let mut pictures: Vec<Vec<f32>> = given.iter().map(|&s| picture(s)).collect();
        assert!(ranking.check(&pictures, &query).is_ok());
        pictures.swap(2, 3);
        assert!(ranking.check(&pictures, &query).is_err());
        let half = Ranking { similarities: vec![given], ..ranking }.part(11);
        assert_eq!((half.pictures.len(), half.similarities[0].len()), (11, 11));
        let ranking = Ranking { pictures: (0..12).map(|i| format!("{i}.png")).collect(), ..half };
        let tied = Ranking { similarities: vec![vec![0.5; 12]], ..ranking };
        let pictures: Vec<Vec<f32>> = (0..12).map(|i| picture(0.5 + 1e-6 * i as f32)).collect();
        assert!(tied.check(&pictures, &query).is_ok());
    }
}
