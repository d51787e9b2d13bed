use super::*;
use crate::graph::{ConvInteger, ConvIntegerToFloat, Padding, Unary, Window};
use crate::tensor::{ConstantId, Tensor};

struct Case {
    x: &'static [usize],
    w: &'static [usize],
    groups: usize,
    strides: &'static [usize],
    dilations: &'static [usize],
    pads: &'static [usize],
}

/// Plain, padded unevenly, strided, dilated, grouped, depthwise (with multiplier), pointwise, patches; 1 to 3 dimensions; a window
/// too large for sums in f32; 3 x 3 of many channels.
#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { x: &[1, 3, 9, 8], w: &[5, 3, 3, 3], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[2, 3, 9, 8], w: &[7, 3, 2, 3], groups: 1, strides: &[2, 1], dilations: &[1, 1], pads: &[0, 1, 2, 0] },
    Case { x: &[1, 2, 11, 10], w: &[3, 2, 3, 2], groups: 1, strides: &[1, 2], dilations: &[2, 3], pads: &[2, 0, 2, 3] },
    Case { x: &[2, 6, 7, 7], w: &[9, 2, 3, 3], groups: 3, strides: &[2, 2], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[2, 6, 7, 9], w: &[6, 1, 3, 3], groups: 6, strides: &[1, 1], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[1, 3, 13, 9], w: &[6, 1, 5, 3], groups: 3, strides: &[2, 3], dilations: &[1, 2], pads: &[2, 1, 0, 4] },
    Case { x: &[1, 4, 20, 33], w: &[4, 1, 7, 7], groups: 4, strides: &[1, 1], dilations: &[1, 1], pads: &[3, 3, 3, 3] },
    Case { x: &[2, 17, 6, 7], w: &[13, 17, 1, 1], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[0, 0, 0, 0] },
    Case { x: &[1, 17, 6, 7], w: &[13, 17, 1, 1], groups: 1, strides: &[2, 2], dilations: &[1, 1], pads: &[0, 0, 0, 0] },
    Case { x: &[2, 3, 16, 12], w: &[40, 3, 4, 4], groups: 1, strides: &[4, 4], dilations: &[1, 1], pads: &[0, 0, 0, 0] },
    Case { x: &[1, 4, 37], w: &[6, 4, 5], groups: 1, strides: &[2], dilations: &[1], pads: &[2, 2] },
    Case { x: &[1, 4, 37], w: &[4, 1, 5], groups: 4, strides: &[1], dilations: &[3], pads: &[6, 6] },
    Case { x: &[1, 2, 4, 5, 6], w: &[3, 2, 2, 3, 3], groups: 1, strides: &[1, 2, 1], dilations: &[1, 1, 2], pads: &[1, 1, 0, 0, 1, 3] },
    Case { x: &[1, 2, 5, 5, 6], w: &[2, 1, 3, 3, 2], groups: 2, strides: &[2, 1, 2], dilations: &[1, 1, 2], pads: &[1, 1, 0, 0, 1, 3] },
    Case { x: &[1, 1, 30, 31], w: &[2, 1, 3, 3], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[0, 3, 9, 8], w: &[5, 3, 3, 3], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[2, 16, 9, 8], w: &[17, 16, 3, 3], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[1, 20, 31, 37], w: &[33, 20, 3, 3], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[0, 1, 3, 0] },
    Case { x: &[1, 16, 1, 1], w: &[16, 16, 3, 3], groups: 1, strides: &[1, 1], dilations: &[1, 1], pads: &[1, 1, 1, 1] },
    Case { x: &[1, 2, 20, 20], w: &[4, 1, 17, 17], groups: 2, strides: &[1, 1], dilations: &[1, 1], pads: &[0, 0, 0, 0] },
];

fn numbers(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * step) % 17) as f32 - 8.0).collect()
}

fn bytes(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| if i % 3 == 0 { 255 * (i / 3 % 2) as u8 } else { (((i + seed) * 40503) >> 3) as u8 }).collect()
}

/// The convolution by definition, on whole numbers below 2^53.
pub(super) fn naive(g: &Geometry, groups: usize, w_shape: &[usize], x: &[f64], w: &[f64]) -> Vec<f64> {
    let (filters, channels, image, n) = (w_shape[0], w_shape[1], g.input_len(), g.output_len());
    let mut out = Vec::new();
    for i in 0..g.batch * filters * n {
        let (b, filter, at) = (i / n / filters, i / n % filters, i % n);
        let o = [at / g.output[2] / g.output[1], at / g.output[2] % g.output[1], at % g.output[2]];
        let first = b * g.channels + filter / (filters / groups) * channels;
        let mut sum = 0.0;
        for k in 0..channels * g.taps() {
            let (c, tap) = (k / g.taps(), k % g.taps());
            let t = [tap / g.kernel[2] / g.kernel[1], tap / g.kernel[2] % g.kernel[1], tap % g.kernel[2]];
            let source = |d: usize| g.source(d, o[d], t[d]);
            if let (Some(d), Some(h), Some(w_at)) = (source(0), source(1), source(2)) {
                let at = (d * g.input[1] + h) * g.input[2] + w_at;
                sum += x[(first + c) * image + at] * w[filter * channels * g.taps() + k];
            }
        }
        out.push(sum);
    }
    out
}

pub(super) fn view<'a, T: Element>(out: &'a mut [T], shape: &'a [usize]) -> TensorViewMut<'a> {
    TensorViewMut { dtype: T::DTYPE, shape, bytes: bytemuck::cast_slice_mut(out) }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x as f64).collect()
}

/// The cases with their window and sizes.
fn cases() -> impl Iterator<Item = (usize, &'static Case, Window, Geometry)> {
    CASES.iter().enumerate().map(|(i, c)| {
        let pads = Padding::Explicit(c.pads.to_vec());
        let window = Window { strides: c.strides.to_vec(), dilations: c.dilations.to_vec(), pads };
        let g = Geometry::of("Conv", c.x, &c.w[2..], &window, false).unwrap();
        (i, c, window, g)
    })
}

#[test]
fn floats_with_epilogue_and_constants() {
    for cpu in Cpu::of_every_kind() {
        for (i, c, window, g) in cases() {
            let (x, w) = (numbers(c.x.iter().product(), 5), numbers(c.w.iter().product(), 7));
            let n = g.output_len();
            let len = g.batch * c.w[0] * n;
            let (bias, residual) = (numbers(c.w[0], 3), numbers(len, 11));
            let sums = naive(&g, c.groups, c.w, &wide(&x), &wide(&w));
            let (tx, tw) = (Tensor::from_slice(c.x, &x).unwrap(), Tensor::from_slice(c.w, &w).unwrap());
            let halves: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
            let th = Tensor::from_slice(c.w, &halves).unwrap();
            let (tb, tr) = (Tensor::vector(&bias), Tensor::vector(&residual));
            for (full, relu) in [(false, false), (true, false), (true, true)] {
                let activation = full.then_some(Unary::Relu);
                let op = Conv { groups: c.groups, window: window.clone(), activation, relu };
                for (variant, tw) in [&tw, &tw, &th, &th].into_iter().enumerate() {
                    let mut w_view = tw.view();
                    w_view.constant = (variant > 0).then_some(ConstantId((2 * i + (variant == 1) as usize) as u32));
                    let inputs = [Some(tx.view()), Some(w_view), full.then_some(tb.view()), full.then_some(tr.view())];
                    let mut out = vec![f32::NAN; len];
                    run(&cpu, &op, &inputs, &mut [view(&mut out, &[len])]).unwrap();
                    for (at, &got) in out.iter().enumerate() {
                        let mut want = sums[at] as f32;
                        if full {
                            want = (want + bias[at / n % c.w[0]]).max(0.0) + residual[at];
                        }
                        if relu {
                            want = want.max(0.0);
                        }
                        assert_eq!(got, want, "case {i} variant {variant} at {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_are_exact() {
    Cpu::of_every_kind().for_each(|cpu| check_integers(&cpu));
}

fn check_integers(cpu: &Cpu) {
    for (i, c, window, g) in cases() {
        for signs in 0..4 {
            let dtype = |signed: bool| if signed { DType::I8 } else { DType::U8 };
            let (xt, wt) = (dtype(signs & 1 == 1), dtype(signs & 2 == 2));
            let tx = Tensor::from_bytes(xt, c.x, &bytes(c.x.iter().product(), 1)).unwrap();
            let tw = Tensor::from_bytes(wt, c.w, &bytes(c.w.iter().product(), 2)).unwrap();
            let n = g.output_len();
            let len = g.batch * c.w[0] * n;
            for zeros in [0, 1, c.w[0]] {
                let xz = Tensor::from_bytes(xt, &[], &[200]).unwrap();
                let wz = Tensor::from_bytes(wt, &[zeros], &bytes(zeros, 77)).unwrap();
                let ints = |t: &Tensor| t.to_i64_vec().unwrap();
                let x_zero = if zeros > 0 { ints(&xz)[0] } else { 0 };
                let per_filter = c.w[1..].iter().product::<usize>();
                let w_zero = |k: usize| if zeros > 0 { ints(&wz)[k / per_filter % zeros] } else { 0 };
                let x: Vec<f64> = ints(&tx).iter().map(|x| (x - x_zero) as f64).collect();
                let w: Vec<f64> = ints(&tw).iter().enumerate().map(|(k, w)| (w - w_zero(k)) as f64).collect();
                let sums = naive(&g, c.groups, c.w, &x, &w);
                for constant in [false, true] {
                    let (mut wv, mut wzv) = (tw.view(), wz.view());
                    if constant {
                        wv.constant = Some(ConstantId((i * 4 + signs) as u32));
                        wzv.constant = Some(ConstantId(1000 + zeros as u32));
                    }
                    let zero = zeros > 0;
                    let inputs = [Some(tx.view()), Some(wv), zero.then_some(xz.view()), zero.then_some(wzv)];
                    let mut out = vec![-1i32; len];
                    let op = ConvInteger { groups: c.groups, window: window.clone() };
                    run_integer(cpu, &op, &inputs, &mut [view(&mut out, &[len])]).unwrap();
                    assert!(out.iter().zip(&sums).all(|(&x, &y)| x as f64 == y), "case {i} signs {signs} {zeros}");

                    let scales: Vec<f32> = (0..zeros.max(1)).map(|i| 0.01 + 0.002 * i as f32).collect();
                    let (sx, sw) = (Tensor::scalar(0.5f32), Tensor::vector(&scales));
                    let (tb, tr) = (Tensor::vector(&numbers(c.w[0], 3)), Tensor::vector(&numbers(len, 5)));
                    let inputs = [
                        inputs[0],
                        inputs[1],
                        Some(sx.view()),
                        Some(sw.view()),
                        inputs[2],
                        inputs[3],
                        Some(tb.view()),
                        Some(tr.view()),
                    ];
                    for relu in [false, true] {
                        let mut out = vec![0f32; len];
                        let (window, activation) = (window.clone(), Some(Unary::Relu));
                        let op = ConvIntegerToFloat { groups: c.groups, window, activation, relu };
                        run_integer_to_float(cpu, &op, &inputs, &mut [view(&mut out, &[len])]).unwrap();
                        for (at, &got) in out.iter().enumerate() {
                            let filter = at / n % c.w[0];
                            let scaled = sums[at] as f32 * (0.5 * scales[filter % scales.len()]);
                            let want = (scaled + tb.as_slice::<f32>().unwrap()[filter]).max(0.0);
                            let want = want + tr.as_slice::<f32>().unwrap()[at];
                            assert_eq!(got, if relu { want.max(0.0) } else { want });
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn same_padding_and_refusals() {
    let cpu = Cpu::new(1);
    let (x, w) =
        (Tensor::from_slice(&[1, 1, 5], &[1f32; 5]).unwrap(), Tensor::from_slice(&[1, 1, 2], &[1f32; 2]).unwrap());
    let call = |pads: Padding, groups: usize, len: usize| {
        let window = Window { strides: vec![1], dilations: vec![1], pads };
        let mut out = vec![0f32; len];
        let inputs = [Some(x.view()), Some(w.view())];
        run(&cpu, &Conv { groups, window, activation: None, relu: false }, &inputs, &mut [view(&mut out, &[len])])
            .map(|()| out)
    };
    assert_eq!(call(Padding::SameUpper, 1, 5).unwrap(), [2., 2., 2., 2., 1.]);
    assert_eq!(call(Padding::SameLower, 1, 5).unwrap(), [1., 2., 2., 2., 2.]);
    assert!(call(Padding::SameUpper, 2, 5).is_err());
    assert!(call(Padding::SameUpper, 1, 4).is_err());
    assert!(call(Padding::Explicit(vec![0]), 1, 4).is_err());
}
