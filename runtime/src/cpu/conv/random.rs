//! Convolutions of random geometry over extreme 8-bit numbers, on every level of instructions that the machine has,
//! against the loop of [`super::tests::naive`].

use super::tests::{naive, view};
use super::*;
use crate::cpu::random::Random;
use crate::graph::{ConvInteger, Padding, Window};
use crate::tensor::{ConstantId, Tensor};

/// What a case convolves.
struct Shapes {
    x: Vec<usize>,
    w: Vec<usize>,
    groups: usize,
    window: Window,
}

fn shapes(random: &mut Random) -> Shapes {
    let rank = 1 + random.below(3);
    let groups = random.pick(&[1, 1, 2, 5]);
    // One channel a group has a kernel of its own; many filters and many channels leave a tile.
    let (channels, filters) = (random.pick(&[1, 3, 8, 40]), random.pick(&[1, 2, 8, 15, 17]));
    let mut window = Window { strides: vec![], dilations: vec![], pads: Padding::Explicit(vec![]) };
    let (mut x, mut w) = (vec![1 + random.below(2), channels * groups], vec![filters * groups, channels]);
    let mut pads = vec![0; 2 * rank];
    let pointwise = random.below(4) == 0;
    for d in 0..rank {
        let kernel = if pointwise { 1 } else { 1 + random.below(4) };
        let dilation = 1 + random.below(2);
        let reach = (kernel - 1) * dilation + 1;
        x.push(reach + random.below(if rank == 1 { 40 } else { 11 - 2 * rank }));
        w.push(kernel);
        window.strides.push(1 + random.below(3));
        window.dilations.push(dilation);
        if !pointwise {
            (pads[d], pads[rank + d]) = (random.below(kernel + 1), random.below(kernel + 1));
        }
    }
    window.pads = Padding::Explicit(pads);
    Shapes { x, w, groups, window }
}

#[test]
fn random_convolutions_are_exact_on_every_path() {
    let mut random = Random(0x0c04_7015);
    let cpus: Vec<Cpu> = Cpu::of_every_kind().collect();
    for case in 0..96 {
        let Shapes { x: x_shape, w: w_shape, groups, window } = shapes(&mut random);
        let (x_signed, w_signed) = (case & 1 == 1, case & 2 == 2);
        let x = random.bytes(&x_shape, x_signed);
        let w = match case & 4 {
            0 => random.bytes(&w_shape, w_signed),
            _ => random.weights(&w_shape, w_signed),
        };
        let filters = w_shape[0];
        let (x_zero, w_zero) = (random.zeros(1, x_signed), random.zeros(filters, w_signed));
        let constant = random.pick(&[None, Some(ConstantId(case))]);

        let g = Geometry::of("Conv", &x_shape, &w_shape[2..], &window, false).unwrap();
        let ints = |t: &Tensor| t.to_i64_vec().unwrap();
        let per_filter = w.len() / filters;
        let x_zeros = x_zero.as_ref().map_or(vec![0], ints);
        let w_zeros = w_zero.as_ref().map_or(vec![0], ints);
        let wide_x: Vec<f64> = ints(&x).iter().map(|x| (x - x_zeros[0]) as f64).collect();
        let less = |(k, w): (usize, &i64)| (w - w_zeros[k / per_filter % w_zeros.len()]) as f64;
        let wide_w: Vec<f64> = ints(&w).iter().enumerate().map(less).collect();
        let want = naive(&g, groups, &w_shape, &wide_x, &wide_w);

        let (mut w_view, w_zero) = (w.view(), w_zero.as_ref().map(Tensor::view));
        w_view.constant = constant;
        let inputs = [Some(x.view()), Some(w_view), x_zero.as_ref().map(Tensor::view), w_zero];
        let op = ConvInteger { groups, window };
        for cpu in &cpus {
            let mut out = vec![-1i32; want.len()];
            run_integer(cpu, &op, &inputs, &mut [view(&mut out, &[want.len()])]).unwrap();
            let wrong = out.iter().zip(&want).position(|(&got, &want)| got as f64 != want);
            assert!(
                wrong.is_none(),
                "case {case}, {}, {} threads: {x_shape:?} by {w_shape:?}, {op:?}, element {wrong:?}",
                cpu.kernels().name,
                cpu.threads(),
            );
        }
    }
}
