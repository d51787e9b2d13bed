use half::f16;

use super::*;
use crate::gpu::testing::{Lcg, assert_close, gpu, run};
use crate::tensor::Tensor;

fn element(bytes: &[u8], row_bytes: usize, row: usize, i: usize, bits: u32) -> f32 {
    let byte = bytes[row * row_bytes + i * bits as usize / 8];
    (if bits == 8 { byte } else { byte >> (i % 2 * 4) & 15 }) as f32
}

#[test]
fn products_match_the_host() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(9);
    // m, n, k, bits, block, zero points: 0 none, 1 packed, 2 float.
    let cases = [
        (1, 5, 16, 4, 16, 0),
        (1, 33, 64, 4, 32, 1),
        (3, 17, 100, 4, 32, 1),
        (4, 20, 70, 8, 16, 1),
        (9, 70, 130, 4, 128, 1),
        (70, 65, 96, 8, 32, 2),
        (2, 40, 257, 4, 64, 2),
        (1, 7, 33, 8, 16, 0),
    ];
    for (case, (m, n, k, bits, block, zeros)) in cases.into_iter().enumerate() {
        let blocks = usize::div_ceil(k, block);
        let row_bytes = blocks * block * bits as usize / 8;
        let zero_bytes = (blocks * bits as usize).div_ceil(8);
        let a = rng.floats(m * k);
        let b: Vec<u8> = (0..n * row_bytes).map(|_| rng.next() as u8).collect();
        let halves = case % 2 == 1;
        let round = |v: f32| if halves { f16::from_f32(v).to_f32() } else { v };
        let scales: Vec<f32> = rng.floats(n * blocks).into_iter().map(|v| round(v * 0.1)).collect();
        let packed: Vec<u8> = (0..n * zero_bytes).map(|_| rng.next() as u8).collect();
        let float: Vec<f32> = rng.floats(n * blocks).into_iter().map(|v| round(v * 8.0)).collect();
        let (bias, residual) = (rng.floats(n), rng.floats(m * n));
        let mut want = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let mut sum = 0f64;
                for x in 0..k {
                    let zero = match zeros {
                        0 => (1 << (bits - 1)) as f32,
                        1 => element(&packed, zero_bytes, j, x / block, bits),
                        _ => float[j * blocks + x / block],
                    };
                    let w = (element(&b, row_bytes, j, x, bits) - zero) * scales[j * blocks + x / block];
                    sum += a[i * k + x] as f64 * w as f64;
                }
                want.push(sum as f32 + bias[j] + residual[i * n + j]);
            }
        }
        let floats = |shape: &[usize], v: &[f32]| {
            if halves {
                let v: Vec<f16> = v.iter().map(|&v| f16::from_f32(v)).collect();
                Tensor::from_slice(shape, &v).unwrap()
            } else {
                Tensor::from_slice(shape, v).unwrap()
            }
        };
        let inputs = [
            Some(Tensor::from_slice(&[m, k], &a).unwrap()),
            Some(Tensor::from_slice(&[n, blocks, row_bytes / blocks], &b).unwrap()),
            Some(floats(&[n, blocks], &scales)),
            match zeros {
                0 => None,
                1 => Some(Tensor::from_slice(&[n, zero_bytes], &packed).unwrap()),
                _ => Some(floats(&[n, blocks], &float)),
            },
            Some(Tensor::vector(&bias)),
            Some(Tensor::from_slice(&[m, n], &residual).unwrap()),
        ];
        let op = MatMulNBits { bits, block, k, n, activation: None };
        let got = run(&gpu, &Op::MatMulNBits(op), &inputs, &[(DType::F32, &[m, n])]).remove(0);
        assert_close(&got, &want, 1e-5, 2e-4, cases[case]);
        // The other kernel, where it can serve.
        let up: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| gpu.upload(t.view()).unwrap())).collect();
        let up: Vec<_> = up.iter().map(Option::as_ref).collect();
        let y = gpu.alloc(DType::F32, &[m, n]).unwrap();
        let ctx = Ctx { gpu: &gpu, name: "MatMulNBits", inputs: &up, outputs: &[&y], collect: None };
        record_product(&op, &ctx, Some(KernelChoice::Tile)).unwrap();
        let got = pollster::block_on(gpu.download(&y)).unwrap();
        assert_close(&got, &want, 1e-5, 2e-4, ("tile", cases[case]));
    }
}

#[test]
fn rows_of_a_quantized_table() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(10);
    // Unpacked shape, gathered and quantized dimension, bits.
    let cases: [(&[usize], usize, usize, u32); 5] = [
        (&[11, 32], 0, 1, 4),
        (&[11, 48], 0, 1, 8),
        (&[4, 5, 18], 1, 2, 4),
        (&[4, 33, 6], 0, 1, 4),
        (&[3, 40], 1, 0, 8),
    ];
    for (shape, gather_axis, quantize_axis, bits) in cases {
        for with_zeros in [false, true] {
            let block = 16;
            let op = GatherBlockQuantized { bits, block, gather_axis, quantize_axis };
            let total: usize = shape.iter().product();
            let last = *shape.last().unwrap();
            let mut packed = shape.to_vec();
            *packed.last_mut().unwrap() = last * bits as usize / 8;
            let data: Vec<u8> = (0..total * bits as usize / 8).map(|_| rng.next() as u8).collect();
            let mut scale_shape = shape.to_vec();
            scale_shape[quantize_axis] = shape[quantize_axis].div_ceil(block);
            let scales = rng.floats(scale_shape.iter().product());
            let scale_row = *scale_shape.last().unwrap();
            let zero_bytes = (scale_row * bits as usize).div_ceil(8);
            let zeros: Vec<u8> = (0..scales.len() / scale_row * zero_bytes).map(|_| rng.next() as u8).collect();
            let indices: Vec<i64> = (0..7)
                .map(|_| rng.below(shape[gather_axis]) as i64 - (rng.below(2) * shape[gather_axis]) as i64)
                .collect();

            let inner: usize = shape[gather_axis + 1..].iter().product();
            let outer: usize = shape[..gather_axis].iter().product();
            let q_inner: usize = shape[quantize_axis + 1..].iter().product();
            let mut want = Vec::new();
            for o in 0..outer {
                for &index in &indices {
                    let row = index.rem_euclid(shape[gather_axis] as i64) as usize;
                    for i in 0..inner {
                        let at = (o * shape[gather_axis] + row) * inner + i;
                        let q = element(&data, usize::MAX, 0, at, bits);
                        let along = at / q_inner % shape[quantize_axis];
                        let before = at / q_inner / shape[quantize_axis];
                        let s = (before * scale_shape[quantize_axis] + along / block) * q_inner + at % q_inner;
                        let zero = if with_zeros {
                            element(&zeros, zero_bytes, s / scale_row, s % scale_row, bits)
                        } else {
                            (1 << (bits - 1)) as f32
                        };
                        want.push((q - zero) * scales[s]);
                    }
                }
            }
            let mut zero_shape = scale_shape.clone();
            *zero_shape.last_mut().unwrap() = zero_bytes;
            let inputs = [
                Some(Tensor::from_slice(&packed, &data).unwrap()),
                Some(Tensor::vector(&indices)),
                Some(Tensor::from_slice(&scale_shape, &scales).unwrap()),
                with_zeros.then(|| Tensor::from_slice(&zero_shape, &zeros).unwrap()),
            ];
            let out = [outer, indices.len(), inner];
            let got = run(&gpu, &Op::GatherBlockQuantized(op), &inputs, &[(DType::F32, &out)]).remove(0);
            assert_close(&got, &want, 0.0, 1e-7, (shape, gather_axis, quantize_axis, bits, with_zeros));
        }
    }
}
