use super::*;
use crate::gpu::testing::{Lcg, assert_close, gpu, plain_gpu, run};
use crate::graph::MatMulIntegerToFloat;
use crate::tensor::{ConstantId, Tensor, TensorView};

/// Bytes that are often extreme.
fn bytes(rng: &mut Lcg, n: usize) -> Vec<u8> {
    let pick = |rng: &mut Lcg| match rng.below(4) {
        0 => [0u8, 255, 127, 128][rng.below(4)],
        _ => rng.next() as u8,
    };
    (0..n).map(|_| pick(rng)).collect()
}

fn value(dtype: DType, byte: u8) -> i64 {
    if dtype == DType::U8 { byte as i64 } else { byte as i8 as i64 }
}

fn tensor(dtype: DType, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor::from_bytes(dtype, shape, bytes).unwrap()
}

/// The accumulators, modulo 2^32, for [batches, m, k] by [batches or 1, k, n].
fn naive(
    (ta, a, za): (DType, &[u8], &[u8]),
    (tb, b, zb): (DType, &[u8], &[u8]),
    [batches, m, n, k]: [usize; 4],
) -> Vec<i32> {
    let zero = |t, z: &[u8], i: usize| if z.is_empty() { 0 } else { value(t, z[if z.len() > 1 { i } else { 0 }]) };
    let mut out = Vec::new();
    for batch in 0..batches {
        let b = if b.len() > k * n { &b[batch * k * n..] } else { b };
        for i in 0..m {
            for j in 0..n {
                let term = |x: usize| {
                    (value(ta, a[(batch * m + i) * k + x]) - zero(ta, za, i))
                        * (value(tb, b[x * n + j]) - zero(tb, zb, j))
                };
                out.push((0..k).map(term).sum::<i64>() as i32);
            }
        }
    }
    out
}

#[test]
fn accumulators_are_equal_bit_for_bit() {
    let devices = [gpu(), plain_gpu()];
    let mut rng = Lcg(5);
    let shapes =
        [[1, 1, 1, 1], [1, 3, 5, 7], [1, 4, 33, 70], [1, 65, 66, 67], [1, 9, 130, 128], [3, 17, 20, 33], [1, 5, 4, 0]];
    for gpu in devices.iter().flatten() {
        for (case, dims) in shapes.into_iter().enumerate() {
            for types in 0..4 {
                let ta = [DType::U8, DType::I8][types % 2];
                let tb = [DType::U8, DType::I8][types / 2];
                let [batches, m, n, k] = dims;
                let shared_b = (case + types) % 2 == 0;
                let (a, b) =
                    (bytes(&mut rng, batches * m * k), bytes(&mut rng, if shared_b { 1 } else { batches } * k * n));
                let za = bytes(&mut rng, [0, 1, m][(case + types) % 3]);
                let zb = bytes(&mut rng, [0, n, 1][(case + types / 2) % 3]);
                let want = naive((ta, &a, &za), (tb, &b, &zb), dims);
                let lead = |t: &[usize], many: bool| if many { [&[batches][..], t].concat() } else { t.to_vec() };
                let zero = |t, z: &[u8]| (!z.is_empty()).then(|| tensor(t, &[z.len()], z));
                let inputs = [
                    Some(tensor(ta, &lead(&[m, k], true), &a)),
                    Some(tensor(tb, &lead(&[k, n], !shared_b), &b)),
                    zero(ta, &za),
                    zero(tb, &zb),
                ];
                let got = run(gpu, &Op::MatMulInteger, &inputs, &[(DType::I32, &[batches, m, n])]).remove(0);
                assert_eq!(got.as_slice::<i32>().unwrap(), want, "{dims:?} {ta} {tb}");
            }
        }
    }
}

#[test]
fn the_largest_sums_do_not_drift() {
    let Some(gpu) = gpu() else { return };
    // 255 * 255 * 33000 is just below 2^31; with the shift by 128 every partial sum stays exact too.
    let k = 33000;
    for (byte, t) in [(255u8, DType::U8), (128, DType::I8), (0, DType::U8)] {
        let a = vec![byte; 5 * k];
        let inputs = [Some(tensor(t, &[5, k], &a)), Some(tensor(t, &[k, 1], &a[..k])), None, None];
        let got = run(&gpu, &Op::MatMulInteger, &inputs, &[(DType::I32, &[5, 1])]).remove(0);
        let want = (value(t, byte) * value(t, byte) * k as i64) as i32;
        assert_eq!(got.as_slice::<i32>().unwrap(), [want; 5]);
    }
}

#[test]
fn scales_bias_activation_and_residual() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(6);
    for (m, per_column) in [(3, true), (3, false), (70, true)] {
        let (n, k) = (37, 45);
        let (a, b) = (bytes(&mut rng, m * k), bytes(&mut rng, k * n));
        let (za, zb) = (bytes(&mut rng, 1), bytes(&mut rng, n));
        let sums = naive((DType::U8, &a, &za), (DType::I8, &b, &zb), [1, m, n, k]);
        let scales: Vec<f32> = rng.floats(if per_column { n } else { 1 }).iter().map(|s| s.abs() * 1e-4).collect();
        let (bias, residual) = (rng.floats(n), rng.floats(m * n));
        let want: Vec<f32> = sums
            .iter()
            .enumerate()
            .map(|(i, &s)| {
                let scale = 0.03 * scales[if per_column { i % n } else { 0 }];
                (s as f32 * scale + bias[i % n]).max(0.0) + residual[i]
            })
            .collect();
        let inputs = [
            Some(tensor(DType::U8, &[m, k], &a)),
            Some(tensor(DType::I8, &[k, n], &b)),
            Some(Tensor::scalar(0.03f32)),
            Some(Tensor::vector(&scales)),
            Some(tensor(DType::U8, &[], &za)),
            Some(tensor(DType::I8, &[n], &zb)),
            Some(Tensor::vector(&bias)),
            Some(Tensor::from_slice(&[m, n], &residual).unwrap()),
        ];
        let op = Op::MatMulIntegerToFloat(MatMulIntegerToFloat { activation: Some(Unary::Relu) });
        let got = run(&gpu, &op, &inputs, &[(DType::F32, &[m, n])]).remove(0);
        assert_close(&got, &want, 1e-6, 1e-6, (m, per_column));
    }
}

#[test]
fn constants_are_packed_once_for_each_set_of_zero_points() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(7);
    let (m, n, k) = (6, 9, 21);
    let (a, b) = (bytes(&mut rng, m * k), bytes(&mut rng, k * n));
    let upload = |t: &Tensor, id: u32| {
        gpu.upload(TensorView { constant: (id > 0).then_some(ConstantId(id)), ..t.view() }).unwrap()
    };
    let ga = upload(&tensor(DType::U8, &[m, k], &a), 0);
    let gb = upload(&tensor(DType::I8, &[k, n], &b), 1);
    let zeros: Vec<Vec<u8>> = (0..2).map(|_| bytes(&mut rng, n)).collect();
    let gz: Vec<_> = zeros.iter().enumerate().map(|(i, z)| upload(&tensor(DType::I8, &[n], z), 2 + i as u32)).collect();
    let mut launches = Vec::new();
    for i in [0, 0, 1, 2, 2] {
        let zb = [Some(&gz[0]), Some(&gz[1]), None][i];
        let y = gpu.alloc(DType::I32, &[m, n]).unwrap();
        let before = gpu.dispatch_count();
        gpu.record(&Op::MatMulInteger, &[Some(&ga), Some(&gb), None, zb], &[&y]).unwrap();
        launches.push(gpu.dispatch_count() - before);
        let got = pollster::block_on(gpu.download(&y)).unwrap();
        let none = Vec::new();
        let want = naive((DType::U8, &a, &[]), (DType::I8, &b, zeros.get(i).unwrap_or(&none)), [1, m, n, k]);
        assert_eq!(got.as_slice::<i32>().unwrap(), want, "{i}");
    }
    assert_eq!(launches, [3, 2, 3, 3, 2]);
    let before = gpu.memory().in_use;
    drop(gb);
    assert!(gpu.memory().in_use < before, "the packed form goes with the constant");
}

#[test]
fn both_kernels_agree() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(8);
    let (m, n, k) = (4, 50, 300);
    let (a, b) = (bytes(&mut rng, m * k), bytes(&mut rng, k * n));
    let want = naive((DType::I8, &a, &[]), (DType::U8, &b, &[]), [1, m, n, k]);
    let inputs = [tensor(DType::I8, &[m, k], &a), tensor(DType::U8, &[k, n], &b)];
    let inputs: Vec<_> = inputs.iter().map(|t| gpu.upload(t.view()).unwrap()).collect();
    let inputs: Vec<_> = inputs.iter().map(Some).collect();
    for forced in [KernelChoice::Tile, KernelChoice::MatVec] {
        let y = gpu.alloc(DType::I32, &[m, n]).unwrap();
        let ctx = Ctx { gpu: &gpu, name: "MatMulInteger", inputs: &inputs, outputs: &[&y], collect: None };
        record_with(&Op::MatMulInteger, &ctx, Some(forced)).unwrap();
        let got = pollster::block_on(gpu.download(&y)).unwrap();
        assert_eq!(got.as_slice::<i32>().unwrap(), want, "{forced:?}");
    }
}
