//! Products of random shapes and extreme numbers, on every level of instructions that the machine has, against the loop
//! of [`super::tests::naive`].

use super::tests::{naive, view};
use super::*;
use crate::cpu::matmul::driver::MAX_STRETCH;
use crate::tensor::{ConstantId, DType, Tensor};

/// Vigna's SplitMix64: a fixed seed gives the same cases everywhere.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to `n`, exclusive.
    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Bytes whose products and sums reach the ends of their ranges, whichever way they are read.
    fn bytes(&mut self, shape: &[usize], signed: bool) -> Tensor {
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

    /// M, N and K: one of them may be large.
    fn sizes(&mut self) -> (usize, usize, usize) {
        // Around the heights and widths of the tiles.
        let edge =
            |random: &mut Self, sizes: &[usize]| random.pick(sizes) * (1 + random.below(2)) + random.below(3) - 1;
        let (mut m, mut n) = (edge(self, &[2, 4, 6, 8, 14]), edge(self, &[4, 8, 12, 16, 32]));
        let mut k = 1 + self.below(67);
        match self.below(6) {
            // Several stretches of K, or nearly.
            0 => k = self.pick(&[MAX_STRETCH / 2, MAX_STRETCH, 2 * MAX_STRETCH]) + self.below(5) - 2,
            // Several blocks.
            1 => m = 380 + self.below(30),
            2 => n = 250 + self.below(30),
            _ => {}
        }
        (m, n, k)
    }
}

#[test]
fn random_products_are_exact_on_every_path() {
    let mut random = Random(0x1e45_1e70);
    let cpus: Vec<Cpu> = Cpu::of_every_kind().collect();
    for case in 0..192 {
        let (m, n, k) = random.sizes();
        // All four pairs of types, in turns; one product or a batch of them, with a matrix each or one for all.
        let (a_signed, b_signed) = (case & 1 == 1, case & 2 == 2);
        let (batches, b_batches) = random.pick(&[(1, 1), (1, 1), (2, 1), (2, 2)]);
        let a = random.bytes(&[batches, m, k], a_signed);
        let b = random.bytes(&[b_batches, k, n][usize::from(b_batches == 1)..], b_signed);
        let a_zero = match random.below(3) {
            0 => None,
            1 => Some(random.bytes(&[1], a_signed)),
            _ => Some(random.bytes(&[m], a_signed)),
        };
        let b_zero = match random.below(3) {
            0 => None,
            1 => Some(random.bytes(&[1], b_signed)),
            _ => Some(random.bytes(&[n], b_signed)),
        };
        let constant = random.pick(&[None, Some(ConstantId(case))]);

        let numbers = |zero: &Option<Tensor>| zero.as_ref().map_or(vec![0], |zero| zero.to_i64_vec().unwrap());
        let want = naive(&a, &b, &numbers(&a_zero), &numbers(&b_zero));
        let mut b_view = b.view();
        b_view.constant = constant;
        let zeros = [&a_zero, &b_zero].map(|zero| zero.as_ref().map(Tensor::view));
        let inputs = [Some(a.view()), Some(b_view), zeros[0], zeros[1]];
        for cpu in &cpus {
            let mut out = vec![-1i32; want.len()];
            run(cpu, &inputs, &mut [view(&mut out, &[want.len()])]).unwrap();
            let wrong = out.iter().zip(&want).position(|(got, want)| got != want);
            assert!(
                wrong.is_none(),
                "case {case}, {}, {} threads: {batches} x {m} x {k} by {b_batches} x {k} x {n}, element {wrong:?}",
                cpu.kernels().name,
                cpu.threads(),
            );
        }
    }
}
