//! How fast products run on this machine beside its own limit; prints, asserts nothing:
//! `cargo test --release -p lenslet --no-default-features --features threads speed -- --ignored --nocapture`

use std::time::Instant;

use super::matmul::kernel::{Kernel, Number};
use super::{Cpu, CpuKernels, conv, integer, matmul, nbits};
use crate::graph::{Conv, MatMul, MatMulIntegerToFloat, MatMulNBits, Op, Padding, Unary, Window};
use crate::tensor::{AlignedBytes, ConstantId, DType, Tensor, TensorView, TensorViewMut};

/// Seconds that this thread has run, where the system tells it: other work on the machine counts less then. Work on other
/// threads is not seen, so figures for several threads use the clock.
fn thread_seconds() -> Option<f64> {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
        }
        const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
        let mut time = [0i64; 2];
        // SAFETY: on 64-bit Linux a `timespec` is two 64-bit integers, which the call fills in.
        let code = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut time) };
        (code == 0).then(|| time[0] as f64 + time[1] as f64 / 1e9)
    }
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    None
}

/// Seconds that `f` takes, the least of several runs.
fn best(threads: usize, mut f: impl FnMut()) -> f64 {
    let now = |start: &Instant| match thread_seconds() {
        Some(seconds) if threads == 1 => seconds,
        _ => start.elapsed().as_secs_f64(),
    };
    f();
    let begin = Instant::now();
    let (mut least, mut runs) = (f64::INFINITY, 0);
    while runs < 5 || (begin.elapsed().as_secs_f64() < 0.4 && runs < 200) {
        let start = now(&begin);
        f();
        least = least.min(now(&begin) - start);
        runs += 1;
    }
    least
}

fn constant(t: &Tensor, id: usize) -> Option<TensorView<'_>> {
    Some(TensorView { constant: Some(ConstantId(id as u32)), ..t.view() })
}

fn out<'a>(data: &'a mut [f32], shape: &'a [usize]) -> [TensorViewMut<'a>; 1] {
    [TensorViewMut { dtype: DType::F32, shape, bytes: bytemuck::cast_slice_mut(data) }]
}

fn floats(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i % 1013) as f32 * 0.7).sin() * 0.05).collect();
    Tensor::from_slice(shape, &data).unwrap()
}

fn bytes(shape: &[usize], signed: bool) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<u8> = (0..n).map(|i| (i.wrapping_mul(40503) >> 5) as u8).collect();
    Tensor::from_bytes(if signed { DType::I8 } else { DType::U8 }, shape, &data).unwrap()
}

/// Prints the rate of one tile whose panels lie in the first-level cache.
fn tile<T: Number>(kernel: &Kernel<T>) {
    for rows in [1, kernel.mr - 1, kernel.mr] {
        let k = 256;
        let bytes = AlignedBytes::zeroed(k * (kernel.mr + kernel.nr) * size_of::<T>());
        let (b, a) = bytemuck::cast_slice::<u8, T>(bytes.as_slice()).split_at(k * kernel.nr);
        let mut c = vec![T::Acc::default(); kernel.mr * kernel.nr];
        let time = best(1, || {
            for _ in 0..100 {
                kernel.run(rows, k, a, b, &mut c, kernel.nr, true);
            }
        });
        println!("tile {} with {rows} rows: {:.1} G/s", kernel.name, (100 * rows * k * kernel.nr) as f64 / time / 1e9);
    }
}

/// Multiply-adds a second that register-only loops reach: f32, then 16-bit pairs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn limits() -> (f64, f64) {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    const N: usize = 2_000_000;
    let mut f = [_mm256_set1_ps(black_box(1.0)); 12];
    let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    let float = best(1, || {
        let mut sums = f;
        for _ in 0..N {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        f = black_box(sums);
    });
    let mut i = [_mm256_set1_epi32(black_box(1)); 12];
    let z = _mm256_set1_epi16(black_box(3));
    let int = best(1, || {
        let (mut sums, mut z) = (i, z);
        for _ in 0..N {
            for sum in &mut sums {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(z, *sum));
            }
            z = _mm256_add_epi16(z, z);
        }
        i = black_box(sums);
    });
    ((N * 12 * 8) as f64 / float / 1e9, (N * 12 * 16) as f64 / int / 1e9)
}

#[test]
#[ignore = "measures"]
fn speed() {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: AVX2 and FMA were just detected.
        let (float, int) = unsafe { limits() };
        println!("limits: {float:.1} G f32, {int:.1} G 16-bit multiply-adds/s");
    }
    let kernels = match std::env::var("KERNELS") {
        Ok(name) => CpuKernels::named(&name).expect("this machine has such kernels"),
        Err(_) => CpuKernels::default(),
    };
    println!("kernels: {}", kernels.name());
    tile(kernels.0.f32);
    tile(kernels.0.wide);
    if let Some(bytes) = kernels.0.bytes {
        tile(&bytes.tile);
    }
    let only: Option<usize> = std::env::var("THREADS").ok().and_then(|t| t.parse().ok());
    for threads in only.map_or(vec![1, 2], |t| vec![t]) {
        let cpu = Cpu::with_kernels(threads, kernels);
        // The linear layers of CLIP ViT-B/32's image tower: 12 blocks with weights of their own.
        let sizes = [(768, 2304), (768, 768), (768, 3072), (3072, 768)];
        let tokens = 50;
        let inputs: Vec<_> = sizes.iter().map(|&(k, _)| floats(&[tokens, k])).collect();
        let int_inputs: Vec<_> = sizes.iter().map(|&(k, _)| bytes(&[tokens, k], false)).collect();
        let (scale, zero) = (Tensor::scalar(0.01f32), Tensor::scalar(128u8));
        for (name, activation) in [("relu", Unary::Relu), ("quick gelu", Unary::QuickGelu { alpha: 1.702 })] {
            let mut room = vec![0f32; tokens * 3072];
            let mut macs = 0usize;
            let layers: Vec<_> = (0..12).flat_map(|_| sizes).map(|(k, n)| (floats(&[k, n]), floats(&[n]))).collect();
            let time = best(threads, || {
                macs = 0;
                for (i, (w, bias)) in layers.iter().enumerate() {
                    let (k, n) = sizes[i % 4];
                    macs += tokens * k * n;
                    let op = MatMul { activation: (i % 4 == 2).then_some(activation), ..MatMul::default() };
                    let x = [Some(inputs[i % 4].view()), constant(w, i), Some(bias.view())];
                    matmul::run(&cpu, &op, &x, &mut out(&mut room[..tokens * n], &[tokens, n])).unwrap();
                }
            });
            println!("{threads} thr, tower f32, {name}: {:.1} ms, {:.1} G/s", time * 1e3, macs as f64 / time / 1e9);
            let layers: Vec<_> = layers.iter().map(|(w, b)| (bytes(w.shape(), true), b)).collect();
            let time = best(threads, || {
                for (i, (w, bias)) in layers.iter().enumerate() {
                    let n = sizes[i % 4].1;
                    let op = MatMulIntegerToFloat { activation: (i % 4 == 2).then_some(activation) };
                    let x = [
                        Some(int_inputs[i % 4].view()),
                        constant(w, 100 + i),
                        Some(scale.view()),
                        Some(scale.view()),
                        Some(zero.view()),
                        None,
                        Some(bias.view()),
                    ];
                    integer::run_to_float(&cpu, &op, &x, &mut out(&mut room[..tokens * n], &[tokens, n])).unwrap();
                }
            });
            println!("{threads} thr, tower int8, {name}: {:.1} ms, {:.1} G/s", time * 1e3, macs as f64 / time / 1e9);
        }
        for (m, n, k) in [(50, 3072, 768), (50, 768, 3072), (1, 3072, 768)] {
            let (a, w, zero) = (bytes(&[m, k], false), bytes(&[k, n], true), Tensor::scalar(128u8));
            let mut room = vec![0f32; m * n];
            let time = best(threads, || {
                let op = MatMulIntegerToFloat { activation: None };
                let x = [
                    Some(a.view()),
                    constant(&w, 3000 + m * n),
                    Some(scale.view()),
                    Some(scale.view()),
                    Some(zero.view()),
                ];
                integer::run_to_float(&cpu, &op, &x, &mut out(&mut room, &[m, n])).unwrap();
            });
            let rate = (m * n * k) as f64 / time / 1e9;
            println!("{threads} thr, int8 {m}x{n}x{k}: {:.3} ms, {rate:.1} G/s", time * 1e3);
        }
        for (m, n, k) in
            [(50, 3072, 768), (50, 768, 3072), (512, 512, 512), (1, 3072, 768), (1, 49152, 576), (50, 50, 64)]
        {
            let (a, w) = (floats(&[m, k]), floats(&[k, n]));
            let mut room = vec![0f32; m * n];
            for (what, b) in [("constant", constant(&w, 1000 + n)), ("computed", Some(w.view()))] {
                let time = best(threads, || {
                    let x = [Some(a.view()), b];
                    matmul::run(&cpu, &MatMul::default(), &x, &mut out(&mut room, &[m, n])).unwrap();
                });
                let rate = (m * n * k) as f64 / time / 1e9;
                println!("{threads} thr, f32 {m}x{n}x{k} {what} b: {:.3} ms, {rate:.1} G/s", time * 1e3);
            }
            for bits in [4u32, 8] {
                let (b, s) = (bytes(&[n, k / 32, 4 * bits as usize], false), floats(&[n, k / 32]));
                let time = best(threads, || {
                    let op = MatMulNBits { bits, block: 32, k, n, activation: None };
                    let x = [Some(a.view()), Some(b.view()), Some(s.view())];
                    nbits::run(&cpu, &op, &x, &mut out(&mut room, &[m, n])).unwrap();
                });
                let rate = (m * n * k) as f64 / time / 1e9;
                println!("{threads} thr, {bits} bits {m}x{n}x{k}: {:.3} ms, {rate:.1} G/s", time * 1e3);
            }
        }
        // Layers of ResNet-50 and MobileCLIP-S0, and the patch embedding of CLIP ViT-B/32.
        for (c, m, groups, size, kernel, stride, pad) in [
            (3, 64, 1, 224, 7, 2, 3),
            (64, 64, 1, 56, 3, 1, 1),
            (256, 512, 1, 28, 1, 1, 0),
            (512, 512, 1, 7, 3, 1, 1),
            (64, 64, 64, 64, 3, 1, 1),
            (128, 128, 128, 64, 7, 2, 3),
            (512, 512, 512, 8, 7, 1, 3),
            (3, 768, 1, 224, 32, 32, 0),
        ] {
            let (x, w) = (floats(&[1, c, size, size]), floats(&[m, c / groups, kernel, kernel]));
            let pads = Padding::Explicit(vec![pad; 4]);
            let window = Window { strides: vec![stride; 2], dilations: vec![1; 2], pads };
            let side = (size + 2 * pad - kernel) / stride + 1;
            let mut room = vec![0f32; m * side * side];
            let op = Conv { groups, window, activation: None, relu: false };
            let time = best(threads, || {
                let x = [Some(x.view()), constant(&w, 2000 + c * kernel)];
                conv::run(&cpu, &op, &x, &mut out(&mut room, &[m, side, side])).unwrap();
            });
            let macs = m * side * side * c / groups * kernel * kernel;
            let rate = macs as f64 / time / 1e9;
            println!(
                "{threads} thr, conv {c}->{m} /{groups} {size}px k{kernel} s{stride}: {:.3} ms, {rate:.1} G/s",
                time * 1e3
            );
        }
    }
}

#[test]
#[ignore = "measures"]
fn speed_of_sampling() {
    let cpu = Cpu::new(1);
    let shape = [1, 49_152];
    let logits: Vec<f32> = floats(&shape).to_f32_vec().unwrap().iter().map(|v| v * 100.0).collect();
    let logits = Tensor::from_slice(&shape, &logits).unwrap();
    let history = Tensor::from_slice(&[1, 512], &(0..512i64).collect::<Vec<_>>()).unwrap();
    println!("sampling of {} tokens, ms", shape[1]);
    for (name, params) in [
        ("greedy", [0.0f32, 0.0, 1.0, 1.0, 0.5]),
        ("temperature", [0.8, 0.0, 1.0, 1.0, 0.5]),
        ("top-k 40", [0.8, 40.0, 1.0, 1.1, 0.5]),
        ("top-p 0.9", [0.8, 0.0, 0.9, 1.1, 0.5]),
        ("both", [0.8, 40.0, 0.9, 1.1, 0.5]),
    ] {
        let params = Tensor::from_slice(&[1, params.len()], &params).unwrap();
        let inputs = [Some(logits.view()), Some(history.view()), Some(params.view())];
        let (mut token, mut score) = ([0i64], [0f32]);
        let seconds = best(1, || {
            let mut outputs = [
                TensorViewMut { dtype: DType::I64, shape: &[1], bytes: bytemuck::cast_slice_mut(&mut token) },
                TensorViewMut { dtype: DType::F32, shape: &[1], bytes: bytemuck::cast_slice_mut(&mut score) },
            ];
            cpu.run(&Op::Sample, &inputs, &mut outputs).unwrap();
        });
        println!("{name:>12} {:.3}", seconds * 1e3);
    }
}
