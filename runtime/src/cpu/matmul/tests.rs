use super::*;
use crate::graph::Unary;
use crate::tensor::{BufferPool, ConstantId, Tensor};

fn numbers(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * step) % 17) as f32 - 8.0).collect()
}

#[test]
fn gemm_on_strided_slices() {
    let pool = BufferPool::default();
    for (m, n, k) in [
        (1, 1, 1),
        (5, 7, 3),
        (50, 50, 64),
        (7, 300, 600),
        (401, 33, 5),
        (3, 4, 0),
        (0, 3, 3),
        (2, 200, 70),
        (1, 64, 33),
    ] {
        for threads in [1, 3] {
            for (at, bt) in [(false, false), (true, false), (false, true), (true, true)] {
                let (a, b) = (numbers(m * k, 5), numbers(k * n, 7));
                let a_strides = if at { (1, m) } else { (k, 1) };
                let b_strides = if bt { (1, k) } else { (n, 1) };
                let stride = n + 2;
                let mut c = vec![1.0f32; m * stride];
                let cx = Context { threads, scratch: &pool, kernels: &kernel::Kernels::available()[0] };
                gemm(cx, (m, n, k), 0.5, &a, a_strides, &b, b_strides, &mut c, stride, false);
                gemm(cx, (m, n, k), 0.5, &a, a_strides, &b, b_strides, &mut c, stride, true);
                for i in 0..m {
                    for j in 0..n {
                        let at = |p| a[i * a_strides.0 + p * a_strides.1] * b[p * b_strides.0 + j * b_strides.1];
                        assert_eq!(c[i * stride + j], (0..k).map(at).sum::<f32>(), "{m} {n} {k} {i} {j}");
                    }
                    assert_eq!(c[i * stride + n..][..2], [1.0, 1.0]);
                }
            }
        }
    }
}

#[test]
fn every_kernel_agrees() {
    let pool = BufferPool::default();
    let cx = Context { threads: 2, scratch: &pool, kernels: &kernel::Kernels::available()[0] };
    let (m, n, k) = (23, 45, 301);
    let (a, b) = (numbers(m * k, 5), numbers(k * n, 7));
    for kernel in kernel::Kernels::available().iter().map(|kernels| kernels.f32) {
        let mut out = vec![0.0; m * n];
        let finish = Finish { alpha: 1.0, epilogue: Epilogue::default(), at: 0 };
        let columns = Matrix::new(&b, k, n, (n, 1));
        finish.multiply(cx, kernel, Matrix::new(&a, m, k, (k, 1)), (m, n, k), &columns, &mut out);
        for i in 0..m * n {
            let want: f32 = (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum();
            assert_eq!(out[i], want, "{}", kernel.name);
        }
    }
}

/// The product by definition, with explicit batch indices.
fn naive(op: &MatMul, a: &Tensor, b: &Tensor, bias: Option<&[f32]>, residual: Option<&[f32]>) -> Vec<f32> {
    let dims = Dims::of(a.shape(), b.shape(), op.trans_a, op.trans_b).unwrap();
    let (m, n, k) = (dims.m, dims.n, dims.k);
    let (x, y) = (a.to_f32_vec().unwrap(), b.to_f32_vec().unwrap());
    let mut out = Vec::new();
    for &(ai, bi) in &dims.batches {
        for i in 0..m {
            for j in 0..n {
                let mut sum = 0f32;
                for p in 0..k {
                    let xi = if op.trans_a && a.shape().len() > 1 { p * m + i } else { i * k + p };
                    let yi = if op.trans_b && b.shape().len() > 1 { j * k + p } else { p * n + j };
                    sum += x[ai * m * k + xi] * y[bi * k * n + yi];
                }
                let mut v = [sum * op.alpha + bias.map_or(0.0, |b| b[j])];
                if let Some(u) = op.activation {
                    crate::cpu::math::apply_unary(u, &mut v);
                }
                out.push(v[0] + residual.map_or(0.0, |r| r[out.len()]));
            }
        }
    }
    out
}

#[test]
fn operator_with_shapes_constants_and_epilogue() {
    let shapes: &[(&[usize], &[usize], bool, bool)] = &[
        (&[3, 5], &[5, 7], false, false),
        (&[5, 3], &[7, 5], true, true),
        (&[2, 9, 33], &[33, 19], false, false),
        (&[2, 1, 4, 6], &[3, 6, 5], false, false),
        (&[4, 6], &[2, 3, 5, 6], false, true),
        (&[2, 6, 4], &[6, 5], true, false),
        (&[6], &[6], false, true),
        (&[6], &[3, 6, 2], true, false),
        (&[2, 4, 6], &[6], false, false),
        (&[0, 6], &[6, 3], false, false),
        (&[4, 0], &[0, 3], false, false),
        (&[8, 13, 64], &[8, 64, 13], false, false),
    ];
    for cpu in Cpu::of_every_kind() {
        for (case, &(a, b, trans_a, trans_b)) in shapes.iter().enumerate() {
            let dims = Dims::of(a, b, trans_a, trans_b).unwrap();
            let len = dims.outputs().unwrap();
            let ta = Tensor::from_slice(a, &numbers(a.iter().product(), 5)).unwrap();
            let wide = Tensor::from_slice(b, &numbers(b.iter().product(), 7)).unwrap();
            let halves: Vec<f16> = wide.to_f32_vec().unwrap().iter().map(|&x| f16::from_f32(x)).collect();
            let half = Tensor::from_slice(b, &halves).unwrap();
            let (bias, residual) = (numbers(dims.n, 3), numbers(len, 11));
            let (tbias, tresidual) = (Tensor::vector(&bias), Tensor::vector(&residual));
            for full in [false, true] {
                let activation = full.then_some(Unary::Relu);
                let op = MatMul { alpha: if full { 0.5 } else { 1.0 }, trans_a, trans_b, activation };
                let want = naive(&op, &ta, &wide, full.then_some(&bias), full.then_some(&residual));
                for (i, tb) in [&wide, &wide, &half, &half].into_iter().enumerate() {
                    let mut view = tb.view();
                    // Twice each constant: packed, then found.
                    view.constant = (i > 0).then_some(ConstantId((case * 2 + (i == 1) as usize) as u32));
                    let inputs =
                        [Some(ta.view()), Some(view), full.then_some(tbias.view()), full.then_some(tresidual.view())];
                    let mut out = vec![f32::NAN; len];
                    let out_view =
                        TensorViewMut { dtype: DType::F32, shape: &[len], bytes: bytemuck::cast_slice_mut(&mut out) };
                    run(&cpu, &op, &inputs, &mut [out_view]).unwrap();
                    assert_eq!(out, want, "{a:?} {b:?} constant {i}");
                }
            }
        }
        assert!(cpu.packed.bytes() > 0);
    }
}

#[test]
fn bad_operands_are_errors() {
    let cpu = Cpu::new(1);
    let f = |shape: &[usize]| Tensor::from_slice(shape, &numbers(shape.iter().product(), 3)).unwrap();
    let (a, b, ints) = (f(&[2, 3]), f(&[3, 4]), Tensor::vector(&[1i32, 2, 3]));
    let mut room = [0f32; 8];
    let mut call = |inputs: &[Option<TensorView<'_>>], op: MatMul, len: usize| {
        let bytes = bytemuck::cast_slice_mut(&mut room[..len]);
        run(&cpu, &op, inputs, &mut [TensorViewMut { dtype: DType::F32, shape: &[len], bytes }])
    };
    let op = MatMul::default();
    assert!(call(&[Some(a.view()), Some(b.view())], op, 8).is_ok());
    assert!(call(&[Some(a.view()), Some(b.view())], op, 7).is_err());
    assert!(call(&[Some(a.view()), Some(a.view())], op, 4).is_err());
    assert!(call(&[Some(a.view())], op, 8).is_err());
    assert!(call(&[Some(a.view()), Some(ints.view())], op, 2).is_err());
    assert!(call(&[Some(a.view()), Some(b.view()), Some(a.view())], op, 8).is_err());
    let not = MatMul { activation: Some(Unary::Not), ..op };
    assert!(call(&[Some(a.view()), Some(b.view())], not, 8).is_err());
}
