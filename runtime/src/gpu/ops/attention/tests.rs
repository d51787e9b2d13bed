use super::*;
use crate::gpu::testing::{Lcg, assert_close, gpu, run};
use crate::tensor::Tensor;

fn base() -> Attention {
    Attention {
        heads: 1,
        kv_heads: 1,
        scale: None,
        causal: false,
        q_layout: HeadLayout::Split,
        k_layout: HeadLayout::Split,
        v_layout: HeadLayout::Split,
        merged_output: false,
        zero_masked_rows: false,
    }
}

/// [batch, heads, positions, size] rewritten as `layout`, with its shape.
fn lay_out(data: &[f32], [b, h, s, d]: [usize; 4], layout: HeadLayout) -> (Vec<usize>, Vec<f32>) {
    let mut out = vec![0.0; data.len()];
    for (i, &value) in data.iter().enumerate() {
        let (id, is, ih, ib) = (i % d, i / d % s, i / d / s % h, i / d / s / h);
        let at = match layout {
            HeadLayout::Merged => ((ib * s + is) * h + ih) * d + id,
            HeadLayout::Split => i,
            HeadLayout::SplitTransposed => ((ib * h + ih) * d + id) * s + is,
        };
        out[at] = value;
    }
    let shape = match layout {
        HeadLayout::Merged => vec![b, s, h * d],
        HeadLayout::Split => vec![b, h, s, d],
        HeadLayout::SplitTransposed => vec![b, h, d, s],
    };
    (shape, out)
}

struct Case {
    op: Attention,
    /// batch, queries, new keys, past, head size, value head size
    dims: [usize; 6],
    bias: Option<Vec<usize>>,
    lengths: Option<Vec<i32>>,
    presents: bool,
}

fn check(gpu: &crate::gpu::Gpu, rng: &mut Lcg, case: Case, what: &str) {
    let Case { op, dims: [b, s, fresh, past, d, dv], bias, lengths, presents } = case;
    let t = past + fresh;
    let q = rng.floats(b * op.heads * s * d);
    // All keys and values, the past in front, [batch, kv heads, t, size].
    let k = rng.floats(b * op.kv_heads * t * d);
    let v = rng.floats(b * op.kv_heads * t * dv);
    let part = |all: &[f32], size: usize, from: usize, to: usize| -> Vec<f32> {
        (0..b * op.kv_heads).flat_map(|p| all[(p * t + from) * size..(p * t + to) * size].to_vec()).collect()
    };
    let scores = [b, op.heads, s, t];
    let bias_data = bias.as_ref().map(|shape| {
        let mut data = rng.floats(shape.iter().product());
        // Some masked outright, some as exporters mask.
        for (i, x) in data.iter_mut().enumerate() {
            if i % 5 == 1 {
                *x = f32::NEG_INFINITY;
            } else if i % 7 == 2 {
                *x = f32::MIN;
            }
        }
        data
    });
    let bias_strides = bias.as_ref().map(|shape| broadcast_strides(shape, &scores).unwrap());
    let scale = op.scale.unwrap_or(1.0 / (d as f32).sqrt());
    let mut want = vec![0.0; b * op.heads * s * dv];
    for ib in 0..b {
        for h in 0..op.heads {
            let plane = ib * op.kv_heads + h / (op.heads / op.kv_heads);
            for i in 0..s {
                let mut row = vec![f64::NEG_INFINITY; t];
                for (j, score) in row.iter_mut().enumerate() {
                    let hidden = (op.causal && j as i64 > t as i64 - s as i64 + i as i64)
                        || lengths.as_ref().is_some_and(|l| j as i32 >= l[ib]);
                    if hidden {
                        continue;
                    }
                    let product: f64 = (0..d)
                        .map(|x| q[((ib * op.heads + h) * s + i) * d + x] as f64 * k[(plane * t + j) * d + x] as f64)
                        .sum();
                    *score = product * scale as f64;
                    if let (Some(data), Some(st)) = (&bias_data, &bias_strides) {
                        *score += data[ib * st[0] + h * st[1] + i * st[2] + j * st[3]] as f64;
                    }
                }
                let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
                let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
                for x in 0..dv {
                    let y: f64 =
                        row.iter().enumerate().map(|(j, w)| (w - max).exp() * v[(plane * t + j) * dv + x] as f64).sum();
                    let masked = max == f64::NEG_INFINITY;
                    let value = if masked && op.zero_masked_rows { 0.0 } else { (y / sum) as f32 };
                    want[((ib * op.heads + h) * s + i) * dv + x] = value;
                }
            }
        }
    }
    let tensor = |(shape, data): (Vec<usize>, Vec<f32>)| Some(Tensor::from_slice(&shape, &data).unwrap());
    let cache = |all: &[f32], size| {
        (past > 0).then(|| Tensor::from_slice(&[b, op.kv_heads, past, size], &part(all, size, 0, past)).unwrap())
    };
    let inputs = [
        tensor(lay_out(&q, [b, op.heads, s, d], op.q_layout)),
        tensor(lay_out(&part(&k, d, past, t), [b, op.kv_heads, fresh, d], op.k_layout)),
        tensor(lay_out(&part(&v, dv, past, t), [b, op.kv_heads, fresh, dv], op.v_layout)),
        bias.zip(bias_data).and_then(tensor),
        lengths.map(|l| Tensor::vector(&l)),
        cache(&k, d),
        cache(&v, dv),
    ];
    let layout = if op.merged_output { HeadLayout::Merged } else { HeadLayout::Split };
    let (shape, want) = lay_out(&want, [b, op.heads, s, dv], layout);
    let (present_k, present_v) = ([b, op.kv_heads, t, d], [b, op.kv_heads, t, dv]);
    let mut outputs: Vec<(DType, &[usize])> = vec![(DType::F32, &shape)];
    if presents {
        outputs.extend([(DType::F32, &present_k[..]), (DType::F32, &present_v[..])]);
    }
    let got = run(gpu, &Op::Attention(op), &inputs, &outputs);
    assert_close(&got[0], &want, 2e-5, 2e-6, what);
    if presents {
        assert_eq!(got[1].as_slice::<f32>().unwrap(), k, "{what}");
        assert_eq!(got[2].as_slice::<f32>().unwrap(), v, "{what}");
    }
}

fn plain(op: Attention, dims: [usize; 6]) -> Case {
    Case { op, dims, bias: None, lengths: None, presents: false }
}

#[test]
fn layouts_heads_and_sizes() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(13);
    use HeadLayout::*;
    for (i, (q_layout, k_layout, v_layout)) in
        [(Merged, Merged, Merged), (Split, SplitTransposed, Split), (Merged, Split, SplitTransposed)]
            .into_iter()
            .enumerate()
    {
        for (heads, kv_heads) in [(3, 3), (4, 2), (4, 1)] {
            let op = Attention { heads, kv_heads, q_layout, k_layout, v_layout, merged_output: i % 2 == 0, ..base() };
            check(&gpu, &mut rng, plain(op, [2, 13, 37, 0, 20, 12]), "layouts");
        }
    }
    for (s, t, d, dv) in [(1, 1, 1, 1), (50, 50, 64, 64), (9, 70, 256, 256), (3, 33, 40, 129), (1, 100, 33, 97)] {
        check(&gpu, &mut rng, plain(Attention { scale: Some(0.3), ..base() }, [1, s, t, 0, d, dv]), "sizes");
    }
}

#[test]
fn masks() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(14);
    for zero_masked_rows in [false, true] {
        let op = Attention { heads: 2, kv_heads: 2, zero_masked_rows, ..base() };
        for bias in [vec![35], vec![10, 35], vec![1, 2, 1, 35], vec![2, 1, 10, 35], vec![2, 2, 10, 1]] {
            check(&gpu, &mut rng, Case { bias: Some(bias), ..plain(op, [2, 10, 35, 0, 16, 16]) }, "bias");
        }
        let lengths = Some(vec![35, 0, 3]);
        check(&gpu, &mut rng, Case { lengths, ..plain(op, [3, 10, 35, 0, 16, 16]) }, "lengths");
        for (s, t) in [(40, 40), (3, 35), (35, 3)] {
            check(&gpu, &mut rng, plain(Attention { causal: true, ..op }, [1, s, t, 0, 16, 16]), "causal");
        }
    }
}

#[test]
fn caches_grow() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(15);
    for presents in [true, false] {
        for (past, k_layout) in [(5, HeadLayout::Split), (33, HeadLayout::Merged), (0, HeadLayout::SplitTransposed)] {
            let op = Attention { heads: 4, kv_heads: 2, causal: true, k_layout, ..base() };
            check(&gpu, &mut rng, Case { presents, ..plain(op, [2, 3, 3, past, 8, 10]) }, "cache");
        }
    }
}

/// Calls on one growing cache give what calls with the whole past give.
#[test]
fn caches_grow_in_place() {
    let Some(gpu) = gpu() else { return };
    let mut rng = Lcg(16);
    let (b, heads, kv_heads, d, capacity) = (2, 4, 2, 8, 12);
    let op = Attention { heads, kv_heads, causal: true, q_layout: HeadLayout::Merged, ..base() };
    let small =
        [gpu.alloc(DType::F32, &[b, kv_heads, 5, d]).unwrap(), gpu.alloc(DType::F32, &[b, kv_heads, 5, d]).unwrap()];
    let mut cache = small;
    let (mut past_k, mut past_v) = (
        Tensor::from_slice::<f32>(&[b, kv_heads, 0, d], &[]).unwrap(),
        Tensor::from_slice::<f32>(&[b, kv_heads, 0, d], &[]).unwrap(),
    );
    let mut past = 0;
    for rows in [4, 1, 1, 5] {
        if past + rows > cache[0].shape()[2] {
            let larger = [0, 1].map(|_| gpu.alloc(DType::F32, &[b, kv_heads, capacity, d]).unwrap());
            for (from, to) in cache.iter().zip(&larger) {
                gpu.record_move(from, to, past).unwrap();
            }
            cache = larger;
        }
        let q = Tensor::from_slice(&[b, rows, heads * d], &rng.floats(b * rows * heads * d)).unwrap();
        let k = Tensor::from_slice(&[b, kv_heads, rows, d], &rng.floats(b * kv_heads * rows * d)).unwrap();
        let v = Tensor::from_slice(&[b, kv_heads, rows, d], &rng.floats(b * kv_heads * rows * d)).unwrap();
        let (total, y_shape) = (past + rows, [b, heads, rows, d]);
        let present = [b, kv_heads, total, d];
        let inputs = [Some(q.clone()), Some(k.clone()), Some(v.clone()), None, None, Some(past_k), Some(past_v)];
        let outputs: [(DType, &[usize]); 3] = [(DType::F32, &y_shape), (DType::F32, &present), (DType::F32, &present)];
        let want = run(&gpu, &Op::Attention(op), &inputs, &outputs);
        let up = [&q, &k, &v].map(|t| gpu.upload(t.view()).unwrap());
        let y = gpu.alloc(DType::F32, &y_shape).unwrap();
        gpu.record_growing(&op, &[Some(&up[0]), Some(&up[1]), Some(&up[2])], &cache[0], &cache[1], past, &y).unwrap();
        let got = pollster::block_on(gpu.download(&y)).unwrap();
        assert_close(&got, want[0].as_slice().unwrap(), 1e-6, 1e-6, "growing");
        (past_k, past_v, past) = (want[1].clone(), want[2].clone(), total);
    }
    let up = gpu
        .upload(Tensor::from_slice(&[b, kv_heads, 2, d], &rng.floats(b * kv_heads * 2 * d)).unwrap().view())
        .unwrap();
    let q = gpu.upload(Tensor::from_slice(&[b, 2, heads * d], &rng.floats(b * 2 * heads * d)).unwrap().view()).unwrap();
    let y = gpu.alloc(DType::F32, &[b, heads, 2, d]).unwrap();
    let full = gpu.record_growing(&op, &[Some(&q), Some(&up), Some(&up)], &cache[0], &cache[1], past, &y);
    assert!(full.is_err(), "one row of room for two");
}

#[test]
fn what_does_not_fit_is_refused() {
    let caps = Caps::minimal();
    let check = |d: usize, keys: usize| {
        let (q, k, v) = ([1, 1, 4, d], [1, 1, keys, d], [1, 1, 6, d]);
        let inputs: Vec<Option<(DType, &[usize])>> = [&q, &k, &v].map(|s| Some((DType::F32, &s[..]))).to_vec();
        supports(
            &Op::Attention(base()),
            &Facts { caps: &caps, inputs: &inputs, outputs: &[(DType::F32, &[1, 1, 4, 8])] },
        )
    };
    assert!(check(256, 6));
    assert!(!check(257, 6), "a head larger than a workgroup holds");
    assert!(!check(64, 5), "fewer keys than values");
}
