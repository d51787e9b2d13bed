use half::f16;

use super::*;
use crate::gpu::testing::{Lcg, gpu, run};
use crate::graph::PadMode;
use crate::tensor::{Element, Tensor};

/// Element `i` of a tensor is `i`, so that results show where they came from.
fn iota(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_slice(shape, &(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
}

fn bytes(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_slice(shape, &(0..n).map(|i| (i * 7) as u8).collect::<Vec<_>>()).unwrap()
}

/// Elements of `x` in the order of `out`, from the indices that `from` gives.
fn naive<T: Element>(x: &Tensor, out: &[usize], from: impl Fn(&[usize]) -> Vec<usize>) -> Vec<T> {
    let (data, own, total) = (x.as_slice::<T>().unwrap(), strides(x.shape()), out.iter().product::<usize>());
    (0..total)
        .map(|i| {
            let mut at = vec![0; out.len()];
            let mut rest = i;
            for d in (0..out.len()).rev() {
                at[d] = rest % out[d];
                rest /= out[d];
            }
            data[from(&at).iter().zip(&own).map(|(a, s)| a * s).sum::<usize>()]
        })
        .collect()
}

#[test]
fn moves_become_long_runs() {
    // Swapping heads and sequence keeps heads of 64 whole.
    let m = transpose(&[1, 50, 12, 64], Some(&[0, 2, 1, 3])).unwrap();
    let Some(Kernel::Words4(m)) = choose(m, DType::F32) else { panic!() };
    assert_eq!(m.dims, [12, 50, 16]);
    // A concatenation in the middle of odd sizes is word by word, of bytes impossible.
    let m = part(&[3, 7], &[3, 4], 1, 3, true);
    assert!(matches!(choose(m.clone(), DType::F32), Some(Kernel::Words(_))));
    assert_eq!(choose(m, DType::U8), None);
    let m = part(&[8, 3, 16], &[4, 3, 16], 0, 4, true);
    assert!(matches!(choose(m, DType::I8), Some(Kernel::Words4(m)) if m.dims == [12]));
}

#[test]
fn transposes() {
    let Some(gpu) = gpu() else { return };
    let cases: [(&[usize], Option<Vec<usize>>); 6] = [
        (&[5, 7], None),
        (&[2, 5, 3, 8], Some(vec![0, 2, 1, 3])),
        (&[2, 5, 3, 8], Some(vec![0, 2, 3, 1])),
        (&[3, 1, 7, 2, 5], Some(vec![4, 0, 3, 1, 2])),
        (&[0, 4], None),
        (&[300, 257], None),
    ];
    for (shape, perm) in cases {
        let order = perm.clone().unwrap_or_else(|| (0..shape.len()).rev().collect());
        let out: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
        let back = |at: &[usize]| {
            let mut from = vec![0; at.len()];
            order.iter().zip(at).for_each(|(&d, &a)| from[d] = a);
            from
        };
        let op = Op::Transpose { perm };
        let x = iota(shape);
        let got = run(&gpu, &op, &[Some(x.clone())], &[(DType::F32, &out)]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), naive::<f32>(&x, &out, back), "{shape:?}");
        let x = bytes(shape);
        let got = run(&gpu, &op, &[Some(x.clone())], &[(DType::U8, &out)]);
        assert_eq!(got[0].as_slice::<u8>().unwrap(), naive::<u8>(&x, &out, back), "{shape:?}");
    }
    let x: Vec<f16> = (0..15).map(|i| f16::from_f32(i as f32)).collect();
    let x = Tensor::from_slice(&[3, 5], &x).unwrap();
    let got = run(&gpu, &Op::Transpose { perm: None }, &[Some(x.clone())], &[(DType::F16, &[5, 3])]);
    assert_eq!(got[0].as_slice::<f16>().unwrap(), naive::<f16>(&x, &[5, 3], |at| vec![at[1], at[0]]));
}

#[test]
fn slices() {
    let Some(gpu) = gpu() else { return };
    let i = |v: &[i64]| Some(Tensor::vector(v));
    let x = iota(&[5, 8]);
    let inputs = [Some(x.clone()), i(&[1, -3]), i(&[i64::MAX, 7]), None, None];
    let got = run(&gpu, &Op::Slice, &inputs, &[(DType::F32, &[4, 2])]);
    assert_eq!(got[0].as_slice::<f32>().unwrap(), naive::<f32>(&x, &[4, 2], |a| vec![a[0] + 1, a[1] + 5]));
    // Backwards along one axis, by twos.
    let inputs = [Some(x.clone()), i(&[-1]), i(&[i64::MIN]), i(&[1]), i(&[-2])];
    let got = run(&gpu, &Op::Slice, &inputs, &[(DType::F32, &[5, 4])]);
    assert_eq!(got[0].as_slice::<f32>().unwrap(), naive::<f32>(&x, &[5, 4], |a| vec![a[0], 7 - 2 * a[1]]));
    let b = bytes(&[5, 7]);
    let inputs = [Some(b.clone()), i(&[1]), i(&[4]), i(&[-1]), None];
    let got = run(&gpu, &Op::Slice, &inputs, &[(DType::U8, &[5, 3])]);
    assert_eq!(got[0].as_slice::<u8>().unwrap(), naive::<u8>(&b, &[5, 3], |a| vec![a[0], a[1] + 1]));
    let inputs = [Some(x), i(&[3]), i(&[3]), i(&[0]), None];
    let got = run(&gpu, &Op::Slice, &inputs, &[(DType::F32, &[0, 8])]);
    assert!(got[0].is_empty());
}

#[test]
fn expands_and_tiles() {
    let Some(gpu) = gpu() else { return };
    let x = iota(&[3, 1, 4]);
    let out = [2, 3, 5, 4];
    let shape = Tensor::vector(&out.map(|d| d as i64));
    let got = run(&gpu, &Op::Expand, &[Some(x.clone()), Some(shape)], &[(DType::F32, &out)]);
    assert_eq!(got[0].as_slice::<f32>().unwrap(), naive::<f32>(&x, &out, |a| vec![a[1], 0, a[3]]));
    for shape in [[3, 4], [3, 5]] {
        let out = [shape[0] * 2, shape[1] * 3];
        let modulo = |a: &[usize]| vec![a[0] % shape[0], a[1] % shape[1]];
        let repeats = Some(Tensor::vector(&[2i64, 3]));
        let x = iota(&shape);
        let got = run(&gpu, &Op::Tile, &[Some(x.clone()), repeats.clone()], &[(DType::F32, &out)]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), naive::<f32>(&x, &out, modulo));
        let x = bytes(&shape);
        let got = run(&gpu, &Op::Tile, &[Some(x.clone()), repeats], &[(DType::U8, &out)]);
        assert_eq!(got[0].as_slice::<u8>().unwrap(), naive::<u8>(&x, &out, modulo));
    }
}

#[test]
fn concatenates_and_splits() {
    let Some(gpu) = gpu() else { return };
    for (sizes, inner) in [(vec![1, 4, 2], 3), (vec![4, 8], 4), (vec![0, 5], 1)] {
        let total: usize = sizes.iter().sum();
        let whole = iota(&[2, total, inner]);
        let mut parts = Vec::new();
        let mut start = 0;
        for &n in &sizes {
            let data = naive::<f32>(&whole, &[2, n, inner], |a| vec![a[0], a[1] + start, a[2]]);
            parts.push(Tensor::from_slice(&[2, n, inner], &data).unwrap());
            start += n;
        }
        let inputs: Vec<_> = parts.iter().cloned().map(Some).collect();
        let got = run(&gpu, &Op::Concat { axis: -2 }, &inputs, &[(DType::F32, whole.shape())]);
        assert_eq!(got[0].bytes(), whole.bytes());
        let outputs: Vec<_> = parts.iter().map(|p| (DType::F32, p.shape())).collect();
        let got = run(&gpu, &Op::Split { axis: 1, sizes: None }, &[Some(whole)], &outputs);
        for (g, p) in got.iter().zip(&parts) {
            assert_eq!(g.bytes(), p.bytes());
        }
    }
    let a = bytes(&[2, 8]);
    let got = run(&gpu, &Op::Concat { axis: 0 }, &[Some(a.clone()), Some(a.clone())], &[(DType::U8, &[4, 8])]);
    assert_eq!(got[0].bytes(), [a.bytes(), a.bytes()].concat());
}

#[test]
fn pads() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(5);
    let shape = [3usize, 4, 5];
    let x = Tensor::from_slice(&shape, &rng.floats(60)).unwrap();
    for mode in [PadMode::Constant, PadMode::Reflect, PadMode::Edge] {
        let pads = [1i64, 0, 3, 2, 1, -1];
        let out = [6, 5, 7];
        let value = Some(Tensor::scalar(9f32));
        let inputs = [Some(x.clone()), Some(Tensor::vector(&pads)), value, None];
        let got = run(&gpu, &Op::Pad { mode }, &inputs, &[(DType::F32, &out)]);
        let data = x.as_slice::<f32>().unwrap();
        for (i, &g) in got[0].as_slice::<f32>().unwrap().iter().enumerate() {
            let at = [i / 35, i / 7 % 5, i % 7];
            let mut inside = true;
            let mut from = [0usize; 3];
            for d in 0..3 {
                let mut s = at[d] as i64 - pads[d];
                let n = shape[d] as i64;
                inside &= (0..n).contains(&s);
                if mode == PadMode::Reflect {
                    while !(0..n).contains(&s) {
                        s = if s < 0 { -s } else { 2 * (n - 1) - s };
                    }
                }
                from[d] = s.clamp(0, n - 1) as usize;
            }
            let want = data[from[0] * 20 + from[1] * 5 + from[2]];
            let want = if mode == PadMode::Constant && !inside { 9.0 } else { want };
            assert_eq!(g, want, "{mode:?} {at:?}");
        }
    }
    let inputs = [Some(Tensor::vector(&[5i64])), Some(Tensor::vector(&[2i64])), None, Some(Tensor::vector(&[0i64]))];
    // Wrong number of paddings: an error, not a crash.
    let up: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| gpu.upload(t.view()).unwrap())).collect();
    let refs: Vec<_> = up.iter().map(Option::as_ref).collect();
    let y = gpu.alloc(DType::I64, &[3]).unwrap();
    assert!(gpu.record(&Op::Pad { mode: PadMode::Constant }, &refs, &[&y]).is_err());
}
