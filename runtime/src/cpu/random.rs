//! Random cases for tests of integer kernels: a fixed seed gives the same ones everywhere.

use crate::tensor::{DType, Tensor};

/// Vigna's SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// 64 random bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to `n`, exclusive.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// One of `from`.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Bytes whose products and sums reach the ends of their ranges, whichever way they are read.
    pub(super) fn bytes(&mut self, shape: &[usize], signed: bool) -> Tensor {
        const EXTREMES: [u8; 6] = [0x00, 0x01, 0x7f, 0x80, 0x81, 0xff];
        let (kind, same) = (self.below(3), self.pick(&EXTREMES));
        let data: Vec<u8> = (0..shape.iter().product())
            .map(|_| match kind {
                0 => same,
                1 => self.pick(&EXTREMES),
                _ => self.bits() as u8,
            })
            .collect();
        Tensor::from_bytes(if signed { DType::I8 } else { DType::U8 }, shape, &data).unwrap()
    }

    /// Bytes that stand for small numbers, but for an extreme here and there, as weights do.
    pub(super) fn weights(&mut self, shape: &[usize], signed: bool) -> Tensor {
        let top = if signed { 0 } else { 0x80 };
        let data: Vec<u8> = (0..shape.iter().product())
            .map(|_| match self.below(60) {
                0 => 127,
                1 => 0x80,
                _ => (self.below(120) as i8 - 60) as u8,
            })
            .map(|x| x ^ top)
            .collect();
        Tensor::from_bytes(if signed { DType::I8 } else { DType::U8 }, shape, &data).unwrap()
    }

    /// Zero points that go with such bytes: none, one for all, or one each.
    pub(super) fn zeros(&mut self, each: usize, signed: bool) -> Option<Tensor> {
        let count = self.pick(&[0, 1, each]);
        (count > 0).then(|| self.bytes(&[count], signed))
    }
}
