//! The machine's own limit: how many multiply-adds a second its best instructions do when nothing has to be fetched.

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};

/// Independent sums, so that no instruction waits for the one before.
const SUMS: usize = 12;
/// Instructions for each sum in one measurement, some two milliseconds: a busy machine leaves a thread alone for that long.
const ROUNDS: usize = 600_000;
/// Measurements; a limit is what the undisturbed machine reaches, so the best one counts.
const TRIES: usize = 40;

/// An instruction and a loop of nothing else.
struct Probe {
    instruction: &'static str,
    /// Multiply-adds in one of it.
    width: usize,
    run: fn(),
}

/// `{f32, int8}`, each `{instruction, multiply_adds_per_second}` on `threads` threads, or `null` where no probe is known.
pub(crate) fn measure(threads: usize) -> Value {
    let rate = |probe: Probe| {
        let best = (0..TRIES).map(|_| seconds(&probe, threads)).fold(f64::INFINITY, f64::min);
        let multiply_adds = (threads * SUMS * ROUNDS * probe.width) as f64;
        json!({ "instruction": probe.instruction, "multiply_adds_per_second": multiply_adds / best })
    };
    json!({ "f32": f32_probe().map(rate), "int8": int8_probe().map(rate) })
}

fn seconds(probe: &Probe, threads: usize) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(probe.run);
        }
    });
    started.elapsed().as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ROUNDS, SUMS, black_box};

    macro_rules! probe {
        ($name:ident, $features:literal, $zero:ident, $fill:expr, $step:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name() {
                let (a, b) = (black_box($fill), black_box($fill));
                let mut sums = [$zero(); SUMS];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $step(*sum, a, b);
                    }
                }
                black_box(sums);
            }
        };
    }

    probe!(fma_512, "avx512f", _mm512_setzero_ps, _mm512_set1_ps(1e-3), |sum, a, b| _mm512_fmadd_ps(a, b, sum));
    probe!(fma_256, "avx2,fma", _mm256_setzero_ps, _mm256_set1_ps(1e-3), |sum, a, b| _mm256_fmadd_ps(a, b, sum));
    probe!(vnni_512, "avx512f,avx512vnni", _mm512_setzero_si512, _mm512_set1_epi8(1), _mm512_dpbusd_epi32);
    probe!(vnni_256, "avx2,avxvnni", _mm256_setzero_si256, _mm256_set1_epi8(1), _mm256_dpbusd_avx_epi32);
    // Exact for all of int8, unlike the products of bytes.
    probe!(madd_256, "avx2", _mm256_setzero_si256, _mm256_set1_epi16(1), |sum, a, b| {
        _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
    });
}

#[cfg(target_arch = "x86_64")]
fn f32_probe() -> Option<Probe> {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        Some(Probe { instruction: "vfmadd, 512 bits", width: 16, run: || unsafe { x86::fma_512() } })
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both.
        Some(Probe { instruction: "vfmadd, 256 bits", width: 8, run: || unsafe { x86::fma_256() } })
    } else {
        None
    }
}

#[cfg(target_arch = "x86_64")]
fn int8_probe() -> Option<Probe> {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the processor has both.
        Some(Probe { instruction: "vpdpbusd, 512 bits", width: 64, run: || unsafe { x86::vnni_512() } })
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
        // SAFETY: the processor has both.
        Some(Probe { instruction: "vpdpbusd, 256 bits", width: 32, run: || unsafe { x86::vnni_256() } })
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        Some(Probe { instruction: "vpmaddwd and vpaddd, 256 bits", width: 16, run: || unsafe { x86::madd_256() } })
    } else {
        None
    }
}

#[cfg(target_arch = "aarch64")]
fn f32_probe() -> Option<Probe> {
    use std::arch::aarch64::{vdupq_n_f32, vfmaq_f32};
    fn run() {
        // SAFETY: every aarch64 processor that Rust's targets allow has NEON.
        unsafe {
            let (a, b) = (black_box(vdupq_n_f32(1e-3)), black_box(vdupq_n_f32(1e-3)));
            let mut sums = [vdupq_n_f32(0.0); SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = vfmaq_f32(*sum, a, b);
                }
            }
            black_box(sums);
        }
    }
    Some(Probe { instruction: "fmla, 128 bits", width: 4, run })
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn f32_probe() -> Option<Probe> {
    None
}

// Rust has no stable name for `sdot`.
#[cfg(not(target_arch = "x86_64"))]
fn int8_probe() -> Option<Probe> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_has_a_rate() {
        for limit in measure(1).as_object().unwrap().values().filter(|limit| !limit.is_null()) {
            assert!(limit["multiply_adds_per_second"].as_f64().unwrap().is_normal(), "{limit}");
            assert!(!limit["instruction"].as_str().unwrap().is_empty());
        }
    }
}
