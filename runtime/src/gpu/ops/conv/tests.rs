use half::f16;

use super::integer::IntegerChoice;
use super::*;
use crate::gpu::Gpu;
use crate::gpu::testing::{Lcg, assert_close, gpu, run};
use crate::graph::{ConvInteger, ConvIntegerToFloat, Padding, Unary, Window};
use crate::tensor::Tensor;

/// A convolution in f64, two-dimensional. `x` outside the input is `outside`.
fn naive(g: &Geometry, x: &[f64], w: &[f64], outside: f64) -> Vec<f64> {
    let mut out = Vec::new();
    for image in 0..g.images {
        for m in 0..g.channels {
            for oy in 0..g.output[0] {
                for ox in 0..g.output[1] {
                    let mut sum = 0.0;
                    for c in 0..g.group_in {
                        let plane = image * g.groups * g.group_in + m / g.group_out() * g.group_in + c;
                        for i in 0..g.kernel[0] {
                            for j in 0..g.kernel[1] {
                                let iy = (oy * g.stride[0] + i * g.dilation[0]) as i64 - g.pad[0] as i64;
                                let ix = (ox * g.stride[1] + j * g.dilation[1]) as i64 - g.pad[1] as i64;
                                let inside =
                                    (0..g.input[0] as i64).contains(&iy) && (0..g.input[1] as i64).contains(&ix);
                                let at = (plane * g.input[0]) as i64 * g.input[1] as i64 + iy * g.input[1] as i64 + ix;
                                let value = if inside { x[at as usize] } else { outside };
                                sum += value * w[((m * g.group_in + c) * g.kernel[0] + i) * g.kernel[1] + j];
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

struct Case {
    x: Vec<usize>,
    w: Vec<usize>,
    y: Vec<usize>,
    groups: usize,
    window: Window,
}

/// Images, input and output channels, groups, input size, kernel, stride, dilation, padding.
fn case(
    n: usize,
    c: usize,
    m: usize,
    groups: usize,
    input: &[usize],
    kernel: &[usize],
    stride: usize,
    dilation: usize,
    pads: Padding,
) -> Case {
    let rank = input.len();
    let window = Window { strides: vec![stride; rank], dilations: vec![dilation; rank], pads };
    let out: Vec<usize> = (0..rank).map(|i| window.output_of(i, input[i], kernel[i], false).unwrap()).collect();
    Case {
        x: [&[n, c], input].concat(),
        w: [&[m, c / groups], kernel].concat(),
        y: [&[n, m], &out[..]].concat(),
        groups,
        window,
    }
}

fn cases() -> Vec<Case> {
    use Padding::*;
    vec![
        case(1, 3, 16, 1, &[32, 32], &[8, 8], 8, 1, Explicit(vec![0; 4])),
        case(2, 5, 9, 1, &[11, 13], &[3, 3], 1, 1, Explicit(vec![1; 4])),
        case(1, 4, 66, 1, &[10, 7], &[3, 5], 2, 1, Explicit(vec![0, 2, 1, 1])),
        case(2, 8, 12, 1, &[9, 8], &[1, 1], 1, 1, Explicit(vec![0; 4])),
        case(1, 8, 12, 1, &[9, 7], &[1, 1], 2, 1, Explicit(vec![0; 4])),
        case(2, 6, 6, 6, &[9, 8], &[3, 3], 1, 1, SameUpper),
        case(1, 6, 12, 6, &[9, 8], &[5, 3], 2, 1, SameLower),
        case(2, 8, 32, 2, &[9, 8], &[3, 3], 1, 2, Explicit(vec![2; 4])),
        case(1, 8, 16, 2, &[6, 6], &[1, 1], 1, 1, Explicit(vec![0; 4])),
        case(2, 3, 10, 1, &[25], &[4], 3, 1, Explicit(vec![2, 1])),
        case(1, 4, 4, 4, &[25], &[3], 1, 2, Explicit(vec![2, 2])),
    ]
}

fn geometry(c: &Case) -> Geometry {
    Geometry::new(&c.x, &c.w, &c.y, c.groups, &c.window).unwrap()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| v as f64).collect()
}

#[test]
fn kernels_are_chosen_by_geometry() {
    let choices: Vec<_> = cases().iter().map(|c| choose_conv(&geometry(c), None)).collect();
    use ConvChoice::*;
    assert_eq!(
        choices,
        [Implicit, Implicit, Implicit, Pointwise, Implicit, Direct, Direct, Implicit, Pointwise, Implicit, Direct]
    );
    let strided = geometry(&cases()[4]);
    // What is not pointwise cannot be forced to be.
    assert_eq!(choose_conv(&strided, Some(Pointwise)), Implicit);
    assert_eq!(choose_conv(&strided, Some(Direct)), Direct);
    let three = [1, 1, 4, 4, 4];
    let window = Window { strides: vec![1; 3], dilations: vec![1; 3], pads: Padding::Explicit(vec![0; 6]) };
    assert_eq!(Geometry::new(&three, &three, &three, 1, &window), None);
}

#[test]
fn every_kernel_matches_the_host() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(16);
    for (i, c) in cases().iter().enumerate() {
        let g = geometry(c);
        let len = |s: &[usize]| s.iter().product::<usize>();
        let (x, w) = (rng.floats(len(&c.x)), rng.floats(len(&c.w)));
        let (bias, residual) = (rng.floats(g.channels), rng.floats(len(&c.y)));
        let halves: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
        let op = Conv { groups: c.groups, window: c.window.clone(), activation: Some(Unary::Relu), relu: false };
        for (half, relu) in [(false, false), (false, true), (true, false)] {
            let op = Conv { relu, ..op.clone() };
            let last = |y: f32| if relu { y.max(0.0) } else { y };
            let w_used: Vec<f32> = if half { halves.iter().map(|v| v.to_f32()).collect() } else { w.clone() };
            let sums = naive(&g, &wide(&x), &wide(&w_used), 0.0);
            let want: Vec<f32> = sums
                .iter()
                .enumerate()
                .map(|(j, &s)| last((s as f32 + bias[j / g.pixels() % g.channels]).max(0.0) + residual[j]))
                .collect();
            let weights = if half { Tensor::from_slice(&c.w, &halves) } else { Tensor::from_slice(&c.w, &w) }.unwrap();
            let inputs = [
                Some(Tensor::from_slice(&c.x, &x).unwrap()),
                Some(weights),
                Some(Tensor::vector(&bias)),
                Some(Tensor::from_slice(&c.y, &residual).unwrap()),
            ];
            let got = run(&gpu, &Op::Conv(op.clone()), &inputs, &[(DType::F32, &c.y)]).remove(0);
            assert_close(&got, &want, 1e-5, 2e-5, (i, half, relu));
            let up: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| gpu.upload(t.view()).unwrap())).collect();
            let up: Vec<_> = up.iter().map(Option::as_ref).collect();
            for forced in [ConvChoice::Direct, ConvChoice::Implicit] {
                let y = gpu.alloc(DType::F32, &c.y).unwrap();
                let ctx = Ctx { gpu: &gpu, name: "Conv", inputs: &up, outputs: &[&y], collect: None };
                record_conv(&op, &ctx, Some(forced)).unwrap();
                let got = pollster::block_on(gpu.download(&y)).unwrap();
                assert_close(&got, &want, 1e-5, 2e-5, (i, half, relu, forced));
            }
        }
    }
}

fn integer_case(gpu: &Gpu, rng: &mut Lcg, i: usize, c: &Case) {
    let g = geometry(c);
    let len = |s: &[usize]| s.iter().product::<usize>();
    let (tx, tw) = ([DType::U8, DType::I8][i % 2], [DType::I8, DType::U8][i / 2 % 2]);
    let value = |t: DType, b: u8| if t == DType::U8 { b as f64 } else { b as i8 as f64 };
    let mut bytes =
        |n: usize| -> Vec<u8> { (0..n).map(|_| [0, 255, 128, 127, rng.next() as u8][rng.below(5)]).collect() };
    let (x, w) = (bytes(len(&c.x)), bytes(len(&c.w)));
    let (zx, zw) = (bytes(1), bytes(if i.is_multiple_of(3) { 1 } else { g.channels }));
    let with_zeros = i % 4 != 3;
    let zero_x = if with_zeros { value(tx, zx[0]) } else { 0.0 };
    let taps = g.group_in * g.kernel[0] * g.kernel[1];
    let zero_w = |m: usize| if with_zeros { value(tw, zw[if zw.len() > 1 { m } else { 0 }]) } else { 0.0 };
    let xs: Vec<f64> = x.iter().map(|&b| value(tx, b) - zero_x).collect();
    let ws: Vec<f64> = w.iter().enumerate().map(|(j, &b)| value(tw, b) - zero_w(j / taps)).collect();
    let sums: Vec<i32> = naive(&g, &xs, &ws, 0.0).iter().map(|&s| s as i32).collect();

    let tensor = |t, shape: &[usize], b: &[u8]| Some(Tensor::from_bytes(t, shape, b).unwrap());
    let (x, w) = (tensor(tx, &c.x, &x), tensor(tw, &c.w, &w));
    let zeros = if with_zeros { [tensor(tx, &[], &zx), tensor(tw, &[zw.len()], &zw)] } else { [None, None] };
    let exact = Op::ConvInteger(ConvInteger { groups: c.groups, window: c.window.clone() });
    let inputs = [x.clone(), w.clone(), zeros[0].clone(), zeros[1].clone()];
    let got = run(gpu, &exact, &inputs, &[(DType::I32, &c.y)]).remove(0);
    assert_eq!(got.as_slice::<i32>().unwrap(), sums, "case {i}");
    let up: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| gpu.upload(t.view()).unwrap())).collect();
    let up: Vec<_> = up.iter().map(Option::as_ref).collect();
    for forced in [IntegerChoice::Direct, IntegerChoice::Packed] {
        let y = gpu.alloc(DType::I32, &c.y).unwrap();
        let ctx = Ctx { gpu, name: "ConvInteger", inputs: &up, outputs: &[&y], collect: None };
        integer::record(&exact, &ctx, Some(forced)).unwrap();
        let got = pollster::block_on(gpu.download(&y)).unwrap();
        assert_eq!(got.as_slice::<i32>().unwrap(), sums, "case {i} {forced:?}");
    }

    let scales: Vec<f32> =
        rng.floats(if i.is_multiple_of(2) { 1 } else { g.channels }).iter().map(|s| s.abs() * 1e-3).collect();
    let (bias, residual) = (rng.floats(g.channels), rng.floats(sums.len()));
    let relu = !i.is_multiple_of(3);
    let want: Vec<f32> = sums
        .iter()
        .enumerate()
        .map(|(j, &s)| {
            let m = j / g.pixels() % g.channels;
            let scale = 0.02 * scales[if scales.len() > 1 { m } else { 0 }];
            let y = (s as f32 * scale + bias[m]).max(0.0) + residual[j];
            if relu { y.max(0.0) } else { y }
        })
        .collect();
    let op = Op::ConvIntegerToFloat(ConvIntegerToFloat {
        groups: c.groups,
        window: c.window.clone(),
        activation: Some(Unary::Relu),
        relu,
    });
    let inputs = [
        x,
        w,
        Some(Tensor::scalar(0.02f32)),
        Some(Tensor::vector(&scales)),
        zeros[0].clone(),
        zeros[1].clone(),
        Some(Tensor::vector(&bias)),
        Some(Tensor::from_slice(&c.y, &residual).unwrap()),
    ];
    let got = run(gpu, &op, &inputs, &[(DType::F32, &c.y)]).remove(0);
    assert_close(&got, &want, 2e-6, 2e-6, ("to float", i));
}

#[test]
fn integer_accumulators_are_equal_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(17);
    for (i, c) in cases().iter().enumerate() {
        integer_case(&gpu, &mut rng, i, c);
    }
}

#[test]
fn pooling() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(18);
    for (i, (input, kernel, stride, dilation, pads)) in [
        (vec![8, 9], vec![3, 3], 2, 1, vec![1, 1, 1, 1]),
        (vec![8, 9], vec![2, 2], 2, 1, vec![0, 0, 0, 0]),
        (vec![10, 7], vec![3, 2], 3, 2, vec![1, 0, 2, 1]),
        (vec![13], vec![4], 3, 1, vec![1, 2]),
    ]
    .into_iter()
    .enumerate()
    {
        for (max, ceil, count_include_pad) in [
            (true, false, false),
            (true, true, false),
            (false, false, false),
            (false, true, false),
            (false, true, true),
        ] {
            let rank = input.len();
            let window = Window {
                strides: vec![stride; rank],
                dilations: vec![dilation; rank],
                pads: Padding::Explicit(pads.clone()),
            };
            let out: Vec<usize> = (0..rank).map(|d| window.output_of(d, input[d], kernel[d], ceil).unwrap()).collect();
            let op = Pool { max, kernel: kernel.clone(), window, ceil, count_include_pad };
            let (xs, ys) = ([&[2, 3], &input[..]].concat(), [&[2, 3], &out[..]].concat());
            let g = Geometry::pool(&xs, &ys, &op).unwrap();
            let x = rng.floats(xs.iter().product());
            let mut want = Vec::new();
            for plane in 0..6 {
                for oy in 0..g.output[0] {
                    for ox in 0..g.output[1] {
                        let (mut values, mut padded) = (Vec::new(), 0);
                        for a in 0..g.kernel[0] {
                            for b in 0..g.kernel[1] {
                                let py = oy * g.stride[0] + a * g.dilation[0];
                                let px = ox * g.stride[1] + b * g.dilation[1];
                                let (iy, ix) = (py.wrapping_sub(g.pad[0]), px.wrapping_sub(g.pad[1]));
                                if iy < g.input[0] && ix < g.input[1] {
                                    values.push(x[(plane * g.input[0] + iy) * g.input[1] + ix]);
                                }
                                let end = |d: usize| g.pad[d] + g.input[d] + g.pad_end[d];
                                padded += (py < end(0) && px < end(1)) as usize;
                            }
                        }
                        let count = if count_include_pad { padded } else { values.len() };
                        want.push(if max {
                            values.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v))
                        } else {
                            values.iter().sum::<f32>() / count as f32
                        });
                    }
                }
            }
            let inputs = [Some(Tensor::from_slice(&xs, &x).unwrap())];
            let got = run(&gpu, &Op::Pool(op), &inputs, &[(DType::F32, &ys)]).remove(0);
            assert_close(&got, &want, 1e-5, 1e-6, (i, max, ceil, count_include_pad));
        }
    }
}
