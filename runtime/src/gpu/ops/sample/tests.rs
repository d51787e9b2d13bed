use crate::cpu::Cpu;
use crate::gpu::Gpu;
use crate::gpu::testing::{Lcg, gpu, plain_gpu, run};
use crate::graph::{Op, SAMPLE_PARAMS};
use crate::plan::run_on_cpu;
use crate::tensor::{BufferPool, DType, Tensor};

/// The same on the device and on the CPU.
fn both(gpu: &Gpu, inputs: &[Option<Tensor>]) -> [Vec<Tensor>; 2] {
    let batch = inputs[0].as_ref().unwrap().shape()[0];
    let views: Vec<_> = inputs.iter().map(|t| t.as_ref().map(Tensor::view)).collect();
    let outputs = [(DType::I64, vec![batch]), (DType::F32, vec![batch])];
    let cpu = run_on_cpu(&Cpu::new(1), &BufferPool::default(), &Op::Sample, &views, &outputs).unwrap();
    [run(gpu, &Op::Sample, inputs, &[(DType::I64, &[batch]), (DType::F32, &[batch])]), cpu]
}

fn tensor(rows: &[Vec<f32>]) -> Option<Tensor> {
    Some(Tensor::from_slice(&[rows.len(), rows[0].len()], &rows.concat()).unwrap())
}

fn ids(rows: &[Vec<i64>]) -> Option<Tensor> {
    Some(Tensor::from_slice(&[rows.len(), rows[0].len()], &rows.concat()).unwrap())
}

/// Fails unless the device chose as the CPU did. Where they differ, a random number a hair smaller or larger must make
/// the CPU choose the device's token: then rounding of the exponential function decided.
fn assert_same(gpu: &Gpu, inputs: &[Option<Tensor>]) {
    let [device, host] = both(gpu, inputs);
    let (tokens, wanted) = (device[0].as_slice::<i64>().unwrap(), host[0].as_slice::<i64>().unwrap());
    let (scores, expected) = (device[1].as_slice::<f32>().unwrap(), host[1].as_slice::<f32>().unwrap());
    for row in 0..tokens.len() {
        if tokens[row] != wanted[row] {
            let near = [-3e-6f32, 3e-6].iter().any(|step| {
                let mut params = inputs[2].as_ref().unwrap().to_f32_vec().unwrap();
                params.iter_mut().skip(4).step_by(SAMPLE_PARAMS).for_each(|u| *u = (*u + step).clamp(0.0, 0.999_999_9));
                let shape = inputs[2].as_ref().unwrap().shape();
                let mut moved = inputs.to_vec();
                moved[2] = Some(Tensor::from_slice(shape, &params).unwrap());
                both(gpu, &moved)[1][0].as_slice::<i64>().unwrap()[row] == tokens[row]
            });
            assert!(near, "row {row}: {} on the device, {} on the CPU", tokens[row], wanted[row]);
        } else {
            let (s, e) = (scores[row], expected[row]);
            assert!((s.is_nan() && e.is_nan()) || (s - e).abs() < 1e-4, "row {row}: {s}, expected {e}");
        }
    }
}

#[test]
fn draws_as_the_cpu_does() {
    for gpu in [gpu(), plain_gpu()].into_iter().flatten() {
        let mut rng = Lcg(21);
        for (vocab, spread) in [(1, 1.0), (2, 1.0), (31, 3.0), (257, 0.1), (1000, 8.0), (50_257, 4.0)] {
            for case in 0..10 {
                let batch = 1 + case % 3;
                let logits: Vec<_> =
                    (0..batch).map(|_| rng.floats(vocab).iter().map(|v| v * spread).collect()).collect();
                let mut list = |n: usize| -> Vec<Vec<i64>> {
                    (0..batch).map(|_| (0..n).map(|_| rng.below(vocab + 5) as i64 - 3).collect()).collect()
                };
                let (history, recent) = (list(300), list(1));
                let rows = if case % 2 == 0 { batch } else { 1 };
                let params: Vec<_> = (0..rows)
                    .map(|_| {
                        vec![
                            [0.3, 1.0, 2.5, 0.0][case % 4],
                            [0.0, 1.0, 5.0, 40.0, 1e6][case % 5],
                            [1.0, 0.9, 0.3, 0.0][(case / 2) % 4],
                            [1.0, 1.3, 0.7][case % 3],
                            (rng.f32() + 1.0) / 2.0,
                        ]
                    })
                    .collect();
                let history = (case != 4).then(|| ids(&history)).flatten();
                let recent = (case % 2 == 1).then(|| ids(&recent)).flatten();
                assert_same(&gpu, &[tensor(&logits), history, tensor(&params), recent]);
            }
        }
    }
}

#[test]
fn every_draw_of_a_small_vocabulary_agrees() {
    let Some(gpu) = gpu() else { return };
    let n = 1000;
    let row = vec![1.0f32, f32::NEG_INFINITY, 2.0, -0.0, 1.5, 0.0];
    let params: Vec<_> = (0..n).map(|i| vec![0.8, 3.0, 0.95, 1.0, i as f32 / n as f32]).collect();
    let inputs = [tensor(&vec![row; n]), None, tensor(&params), None];
    let [device, host] = both(&gpu, &inputs);
    let (a, b) = (device[0].as_slice::<i64>().unwrap(), host[0].as_slice::<i64>().unwrap());
    // At most one draw lies on each of the two borders between the three tokens that are left.
    assert!(a.iter().zip(b).filter(|(a, b)| a != b).count() <= 2);
    assert!(a.iter().all(|t| [0, 2, 4].contains(t)));
}

#[test]
fn edges() {
    let Some(gpu) = gpu() else { return };
    let cases = [
        vec![0.5; 300],
        vec![-0.0, 0.0, -0.0, -1.0],
        vec![-3.0, -1.0, -2.0, -1.0],
        vec![f32::NEG_INFINITY, -5.0, -5.5, f32::NEG_INFINITY],
        vec![f32::MAX, -f32::MAX, 1e-40, -1e-40],
        vec![1.0, f32::NAN, 0.0],
        vec![1.0, -f32::NAN, 0.0],
        vec![f32::INFINITY, 1.0],
        vec![f32::NEG_INFINITY; 5],
    ];
    for row in cases {
        for settings in [
            [0.0, 0.0, 1.0, 1.0, 0.0],
            [0.0, 0.0, 1.0, 1.7, 0.0],
            [1.0, 0.0, 1.0, 1.7, 0.4],
            [1.0, 2.0, 1.0, 1.0, 0.6],
            [1.0, 0.0, 0.4, 1.0, 0.9],
            [1e-6, 100.0, 0.4, 0.5, 0.999_999_94],
            [1.0, 1.0, 0.0, 1.0, 0.3],
        ] {
            let history = ids(&[vec![1, 1, 3, -1, 99_999]]);
            assert_same(&gpu, &[tensor(std::slice::from_ref(&row)), history, tensor(&[settings.to_vec()]), None]);
        }
    }
}

#[test]
fn nan_reaches_the_host() {
    let Some(gpu) = gpu() else { return };
    let rows = [vec![0.0, 1.0, 2.0], vec![0.0, f32::NAN, 2.0], vec![3.0, 1.0, 2.0]];
    let [device, _] = both(&gpu, &[tensor(&rows), None, tensor(&[vec![0.0, 0.0, 1.0, 1.0, 0.0]]), None]);
    assert_eq!(device[0].as_slice::<i64>().unwrap(), [2, 0, 0]);
    let scores = device[1].as_slice::<f32>().unwrap();
    assert_eq!([scores[0].is_nan(), scores[1].is_nan(), scores[2].is_nan()], [false, true, false]);
}
