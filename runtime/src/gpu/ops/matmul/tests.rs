use half::f16;

use super::*;
use crate::gpu::testing::{Lcg, assert_close, gpu, run};
use crate::graph::{Op, Unary};
use crate::tensor::Tensor;

#[test]
fn kernels_are_chosen_by_rows_and_types() {
    assert_eq!(choose(1, None), KernelChoice::MatVec);
    assert_eq!(choose(4, None), KernelChoice::MatVec);
    assert_eq!(choose(5, None), KernelChoice::Tile);
    assert_eq!(choose(1, Some(KernelChoice::Tile)), KernelChoice::Tile);
    // Five rows do not fit the other kernel whatever is asked for.
    assert_eq!(choose(5, Some(KernelChoice::MatVec)), KernelChoice::Tile);
    assert_eq!(a_loader(DType::F32, 8, false).name, "matmul_a_vec4");
    assert_eq!(a_loader(DType::F32, 7, false).name, "matmul_a_strided");
    assert_eq!(a_loader(DType::F32, 8, true).name, "matmul_a_strided");
    assert_eq!(a_loader(DType::F16, 8, false).name, "matmul_a_half");
    assert_eq!(b_loader(DType::F32, 8, false).name, "matmul_b_vec4");
    assert_eq!(b_loader(DType::F16, 8, false).name, "matmul_b_half4");
    assert_eq!(b_loader(DType::F16, 6, false).name, "matmul_b_half");
    assert_eq!(b_loader(DType::F32, 8, true).name, "matmul_b_strided");
    let mut calls = Vec::new();
    let caps = Caps { max_workgroups_per_dimension: 10, ..Caps::minimal() };
    in_batches(23, &caps, |first, count| {
        calls.push((first, count));
        Ok(())
    })
    .unwrap();
    assert_eq!(calls, [(0, 10), (10, 10), (20, 3)]);
}

/// `a @ b` in f64 over matrices found by `strides`, for shapes whose batches `batch_of` pairs.
fn naive(op: &MatMul, a: (&[usize], &[f32]), b: (&[usize], &[f32])) -> Vec<f32> {
    let e = Extents::new(a.0, b.0, op.trans_a, op.trans_b).unwrap();
    let mut out = Vec::new();
    for z in 0..e.batches() {
        let (mut rest, mut ia, mut ib) = (z, 0, 0);
        for d in (0..4).rev() {
            ia += rest % e.batch[d] * e.a_batch[d];
            ib += rest % e.batch[d] * e.b_batch[d];
            rest /= e.batch[d];
        }
        let (a, b) = (&a.1[ia * e.m * e.k..], &b.1[ib * e.k * e.n..]);
        for i in 0..e.m {
            for j in 0..e.n {
                let at_a = |k: usize| if op.trans_a { a[k * e.m + i] } else { a[i * e.k + k] };
                let at_b = |k: usize| if op.trans_b { b[j * e.k + k] } else { b[k * e.n + j] };
                let sum: f64 = (0..e.k).map(|k| at_a(k) as f64 * at_b(k) as f64).sum();
                out.push(sum as f32 * op.alpha);
            }
        }
    }
    out
}

fn output_shape(op: &MatMul, a: &[usize], b: &[usize], len: usize) -> Vec<usize> {
    // The real output's leading dimensions do not matter to the kernel, only their product.
    let e = Extents::new(a, b, op.trans_a, op.trans_b).unwrap();
    vec![len / e.n.max(1), e.n]
}

#[test]
fn products_match_the_host() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(3);
    let cases: [(&[usize], &[usize], bool, bool); 17] = [
        (&[1, 8], &[8, 4], false, false),
        (&[4, 70], &[70, 65], false, false),
        (&[5, 7], &[7, 3], false, false),
        (&[65, 33], &[33, 130], false, false),
        (&[130, 64], &[64, 132], false, false),
        (&[2, 50, 64], &[64, 68], false, false),
        (&[2, 3, 9, 16], &[2, 3, 16, 12], false, false),
        (&[2, 1, 9, 5], &[3, 5, 12], false, false),
        (&[9, 20], &[7, 20, 6], false, false),
        (&[9, 20], &[30, 20], false, true),
        (&[3, 20], &[30, 20], false, true),
        (&[20, 9], &[20, 30], true, false),
        (&[3, 20, 9], &[3, 31, 20], true, true),
        (&[20], &[20, 5], false, false),
        (&[7, 20], &[20], false, false),
        (&[20], &[20], false, false),
        (&[3, 0], &[0, 5], false, false),
    ];
    for (sa, sb, trans_a, trans_b) in cases {
        let op = MatMul { alpha: 0.5, trans_a, trans_b, activation: None };
        let a = rng.floats(sa.iter().product());
        let b = rng.floats(sb.iter().product());
        let want = naive(&op, (sa, &a), (sb, &b));
        let shape = output_shape(&op, sa, sb, want.len());
        let inputs = [Some(Tensor::from_slice(sa, &a).unwrap()), Some(Tensor::from_slice(sb, &b).unwrap())];
        let got = run(&gpu, &Op::MatMul(op), &inputs, &[(DType::F32, &shape)]).remove(0);
        assert_close(&got, &want, 1e-5, 1e-5, (sa, sb, trans_a, trans_b));
        // Half-precision b of the same values.
        let halves: Vec<f16> = b.iter().map(|&v| f16::from_f32(v)).collect();
        let widened: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
        let want = naive(&op, (sa, &a), (sb, &widened));
        let inputs = [inputs[0].clone(), Some(Tensor::from_slice(sb, &halves).unwrap())];
        let got = run(&gpu, &Op::MatMul(op), &inputs, &[(DType::F32, &shape)]).remove(0);
        assert_close(&got, &want, 1e-5, 1e-5, ("f16", sa, sb));
    }
}

#[test]
fn random_shapes_with_both_kernels_and_the_epilogue() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(4);
    for case in 0..24 {
        let (m, n, k) = (1 + rng.below(9), 1 + rng.below(150), 1 + rng.below(200));
        let activation =
            [None, Some(Unary::Relu), Some(Unary::Gelu), Some(Unary::QuickGelu { alpha: 1.702 })][case % 4];
        let op = MatMul { activation, ..Default::default() };
        let (a, b) = (rng.floats(m * k), rng.floats(k * n));
        let (bias, residual) = (rng.floats(n), rng.floats(m * n));
        let sums = naive(&op, (&[m, k], &a), (&[k, n], &b));
        let act = |x: f32| match activation {
            None => x,
            Some(Unary::Relu) => x.max(0.0),
            Some(Unary::QuickGelu { alpha }) => x / (1.0 + (-alpha * x).exp()),
            // An independent erf: its series, enough terms for |x| < 6 in f64.
            _ => {
                let z = x as f64 / std::f64::consts::SQRT_2;
                let (mut term, mut sum) = (z, z);
                for i in 1..200 {
                    term *= -z * z / i as f64;
                    sum += term / (2 * i + 1) as f64;
                }
                let erf = if z.abs() > 5.0 { z.signum() } else { sum * 2.0 / std::f64::consts::PI.sqrt() };
                (0.5 * x as f64 * (1.0 + erf)) as f32
            }
        };
        let want: Vec<f32> = sums.iter().enumerate().map(|(i, s)| act(s + bias[i % n]) + residual[i]).collect();
        let upload = |shape: &[usize], v: &[f32]| gpu.upload(Tensor::from_slice(shape, v).unwrap().view()).unwrap();
        let inputs = [upload(&[m, k], &a), upload(&[k, n], &b), upload(&[n], &bias), upload(&[m, n], &residual)];
        let inputs: Vec<_> = inputs.iter().map(Some).collect();
        for forced in [KernelChoice::Tile, KernelChoice::MatVec] {
            let y = gpu.alloc(DType::F32, &[m, n]).unwrap();
            let ctx = Ctx { gpu: &gpu, name: "MatMul", inputs: &inputs, outputs: &[&y], collect: None };
            record_with(&op, &ctx, Some(forced)).unwrap();
            let got = pollster::block_on(gpu.download(&y)).unwrap();
            assert_close(&got, &want, 2e-5, 2e-5, (m, n, k, forced, activation));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let caps = Caps::minimal();
    let check = |inputs: &[Option<(DType, &[usize])>]| {
        supports(&MatMul::default(), &Facts { caps: &caps, inputs, outputs: &[(DType::F32, &[2, 4])] })
    };
    let (f, h) = (DType::F32, DType::F16);
    assert!(check(&[Some((f, &[2, 3])), Some((h, &[3, 4]))]));
    assert!(!check(&[Some((f, &[2, 3])), Some((f, &[4, 4]))]));
    assert!(!check(&[Some((h, &[2, 3])), Some((f, &[3, 4]))]));
    assert!(!check(&[Some((f, &[2, 3])), Some((f, &[3, 4])), Some((f, &[5]))]));
    assert!(check(&[Some((f, &[2, 3])), Some((f, &[3, 4])), None, Some((f, &[2, 4]))]));
}

#[test]
fn only_halves_need_packed_halves() {
    let caps = Caps { packed_f16: false, ..Caps::minimal() };
    let mut plain = 0;
    let families = [
        variants(&caps),
        crate::gpu::ops::nbits::variants(&caps),
        crate::gpu::ops::conv::variants(&caps),
        crate::gpu::ops::integer::variants(&caps),
    ];
    for key in families.concat() {
        if !key.source().contains("unpack2x16float") {
            crate::gpu::testing::validate(&key, &caps);
            plain += 1;
        }
    }
    // Kernels by loaders of f32, and what has no loader.
    assert!(plain >= 8 + 5 + 6 + 3, "{plain}");
}
