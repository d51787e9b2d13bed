//! Products of random shapes and extreme numbers, on every level of instructions that the machine has, against the loop
//! of [`super::tests::naive`].

use super::tests::{naive, view};
use super::*;
use crate::cpu::matmul::driver::MAX_STRETCH;
use crate::cpu::random::Random;
use crate::tensor::{ConstantId, Tensor};

/// M, N and K: one of them may be large.
fn sizes(random: &mut Random) -> (usize, usize, usize) {
    // Around the heights and widths of the tiles.
    let mut edge = |sizes: &[usize]| random.pick(sizes) * (1 + random.below(2)) + random.below(3) - 1;
    let (mut m, mut n) = (edge(&[2, 4, 6, 8, 14]), edge(&[4, 8, 12, 16, 32]));
    let mut k = 1 + random.below(67);
    match random.below(6) {
        // Several stretches of K, or nearly.
        0 => k = random.pick(&[MAX_STRETCH / 2, MAX_STRETCH, 2 * MAX_STRETCH]) + random.below(5) - 2,
        // Several blocks.
        1 => m = 380 + random.below(30),
        2 => n = 250 + random.below(30),
        _ => {}
    }
    (m, n, k)
}

#[test]
fn random_products_are_exact_on_every_path() {
    let mut random = Random(0x1e45_1e70);
    let cpus: Vec<Cpu> = Cpu::of_every_kind().collect();
    for case in 0..192 {
        let (m, n, k) = sizes(&mut random);
        // All four pairs of types, in turns; one product or a batch of them, with a matrix each or one for all.
        let (a_signed, b_signed) = (case & 1 == 1, case & 2 == 2);
        let (batches, b_batches) = random.pick(&[(1, 1), (1, 1), (2, 1), (2, 2)]);
        let a = random.bytes(&[batches, m, k], a_signed);
        let b = random.bytes(&[b_batches, k, n][usize::from(b_batches == 1)..], b_signed);
        let (a_zero, b_zero) = (random.zeros(m, a_signed), random.zeros(n, b_signed));
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
