//! Seeded numbers, the same on every machine: SplitMix64, as the zoo's weights are made.

/// Output `i` (from 0) of the SplitMix64 that starts at state `seed`.
pub fn splitmix(seed: u64, i: u64) -> u64 {
    let z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Number `i` of a sequence that is nearly normal: the zoo's recipe.
pub fn normal(seed: u64, i: u64, mean: f64, std: f64) -> f32 {
    let z = splitmix(seed, i);
    let lanes = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
    (mean + std * (lanes as f64 - 131_070.0) / 37_837.227_25) as f32
}

/// A sequence of its own.
pub struct Random {
    seed: u64,
    next: u64,
}

impl Random {
    /// Starts the sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Random { seed, next: 0 }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.next += 1;
        splitmix(self.seed, self.next - 1)
    }

    /// A number in `low..=high`.
    pub fn within(&mut self, low: i64, high: i64) -> i64 {
        low + (self.bits() % (high - low + 1) as u64) as i64
    }

    /// `n` numbers that are nearly normal.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        let start = self.next;
        self.next += n as u64;
        (start..self.next).map(|i| normal(self.seed, i, 0.0, 1.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_zoo() {
        // The first outputs of SplitMix64 at state 0, from its reference implementation.
        assert_eq!(splitmix(0, 0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(splitmix(0, 1), 0x6E78_9E6A_A1B9_65F4);
    }
}
