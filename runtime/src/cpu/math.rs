//! Functions of one `f32`, written so that LLVM turns their loops into vector code.
//!
//! No branch, no table, no call: only multiplications, additions, comparisons that become blends, and bit tricks on the
//! exponent. x86-64 runs a copy compiled for AVX-512, or for AVX2 and FMA, where the machine has them; aarch64 and wasm32
//! need no second copy, because their vector instructions are part of the target.
//!
//! Largest errors, from the tests below, which walk the whole range (ulp: units in the last place of the true value):
//!
//! | function | error | elsewhere |
//! |---|---|---|
//! | `exp` | 1.5 ulp | 0 below -104, infinity above 88.73, gradual underflow between |
//! | `tanh` | 6 ulp, 4e-7 absolute | |
//! | `erf` | 2 ulp | |
//! | `sigmoid` | 3 ulp down to x = -87, 1e-38 absolute below | |
//! | `Gelu`, `GeluTanh`, `QuickGelu` | 4e-7 (1 + abs x) absolute | |
//!
//! NaN in gives NaN out for each of them.

use crate::graph::Unary;

/// Work over slices that pays to be compiled once for each set of vector instructions.
///
/// `run` and all that it calls must be `#[inline(always)]`, so that the body lands inside the copy for that set.
pub(crate) trait Kernel {
    /// What the work gives back.
    type Output;
    /// The work; `FMA` says that `mul_add` is one instruction.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs `kernel` with the widest vector instructions that this machine has.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<true>()
        }
        #[target_feature(enable = "avx2,fma")]
        fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<true>()
        }
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the machine has these features; AVX2 and FMA are part of AVX-512F.
            return unsafe { run_avx512(kernel) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the machine has both features.
            return unsafe { run_avx2(kernel) };
        }
    }
    kernel.run::<{ cfg!(target_arch = "aarch64") }>()
}

/// a * b + c, fused where that is one instruction; never a call into a software `fma`.
#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

// Comparisons that keep NaN, unlike `f32::min` and `f32::max`; each is one instruction on x86.
#[inline(always)]
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

#[inline(always)]
fn at_least(x: f32, limit: f32) -> f32 {
    if x < limit { limit } else { x }
}

/// e^x. Range reduction by Cody and Waite, polynomial from Cephes (`expf.c`).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = at_least(at_most(x, 89.0), -104.0);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let whole = shifted - MAGIC;
    let r = fma::<FMA>(whole, -LN2_LOW, fma::<FMA>(whole, -LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    // Two factors, because 2^128 and 2^-150 are not numbers; NaN leaves garbage here and stays NaN below.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Hyperbolic tangent: the rational function of degree 13 over 6 that Eigen uses.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    // Beyond this the quotient is 1 to the last bit.
    let x = at_least(at_most(x, 9.0), -9.0);
    let s = x * x;
    let mut p = -2.760_768_5e-16;
    p = fma::<FMA>(p, s, 2.000_188e-13);
    p = fma::<FMA>(p, s, -8.604_672e-11);
    p = fma::<FMA>(p, s, 5.122_297e-8);
    p = fma::<FMA>(p, s, 1.485_722_4e-5);
    p = fma::<FMA>(p, s, 6.372_619_3e-4);
    p = fma::<FMA>(p, s, 4.893_524_6e-3);
    let mut q = 1.198_258_4e-6;
    q = fma::<FMA>(q, s, 1.185_347_1e-4);
    q = fma::<FMA>(q, s, 2.268_434_6e-3);
    q = fma::<FMA>(q, s, 4.893_525e-3);
    // In this order a subnormal x keeps its bits. The quotient may round to just above 1.
    at_least(at_most(x * (p / q), 1.0), -1.0)
}

/// Gauss error function: N. Juffa's polynomials, one for the middle and one inside an exponential for the tails.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    // erf(4) is 1 to the last bit.
    let t = at_most(x.abs(), 4.0);
    let s = t * t;
    let mut r = fma::<FMA>(-1.728_534_7e-5, t, 3.831_971_3e-4);
    let u = fma::<FMA>(-3.883_964_4e-3, t, 2.425_462_2e-2);
    r = fma::<FMA>(r, s, u);
    r = fma::<FMA>(r, t, -1.067_778_8e-1);
    r = fma::<FMA>(r, t, -6.348_467e-1);
    r = fma::<FMA>(r, t, -1.287_175_1e-1);
    r = fma::<FMA>(r, t, -t);
    let tail = (1.0 - exp::<FMA>(r)).copysign(x);
    let mut m = -5.967_617e-4;
    m = fma::<FMA>(m, s, 4.991_194e-3);
    m = fma::<FMA>(m, s, -2.676_813_5e-2);
    m = fma::<FMA>(m, s, 1.128_199_25e-1);
    m = fma::<FMA>(m, s, -3.761_253_4e-1);
    m = fma::<FMA>(m, s, 1.283_791_7e-1);
    let middle = fma::<FMA>(m, x, x);
    if t > 0.927_734_4 { tail } else { middle }
}

/// erf(x / sqrt(2)) to 6e-8: for the sum with 1 in [`Unary::Gelu`], half the work of [`erf`], which is relative.
///
/// A rational function of degree 11 over 10, fitted by iteratively reweighted least squares (Lawson's method) up to 5.6,
/// where the true value is 1 to the last bit. Beyond it and in rounding the quotient may pass 1, so it is cut there.
#[inline(always)]
fn erf_of_half<const FMA: bool>(x: f32) -> f32 {
    let t = at_least(at_most(x, 5.6), -5.6);
    let s = t * t;
    let mut p = 4.429_062e-8;
    p = fma::<FMA>(p, s, 1.271_308_2e-5);
    p = fma::<FMA>(p, s, 3.477_026e-4);
    p = fma::<FMA>(p, s, 9.414_526e-3);
    p = fma::<FMA>(p, s, 6.875_231e-2);
    p = fma::<FMA>(p, s, 0.797_884_46);
    let mut q = 1.180_212_5e-6;
    q = fma::<FMA>(q, s, 7.510_213e-5);
    q = fma::<FMA>(q, s, 1.912_981_3e-3);
    q = fma::<FMA>(q, s, 2.894_011_7e-2);
    q = fma::<FMA>(q, s, 0.252_833_96);
    q = fma::<FMA>(q, s, 1.0);
    at_least(at_most(t * p / q, 1.0), -1.0)
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// One value of `u`. The predicates ([`Unary::Not`], [`Unary::IsNan`]) give 1 for true and 0 for false.
#[inline(always)]
fn value<const FMA: bool>(u: Unary, x: f32) -> f32 {
    match u {
        Unary::Abs => x.abs(),
        Unary::Neg => -x,
        Unary::Exp => exp::<FMA>(x),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Erf => erf::<FMA>(x),
        Unary::Tanh => tanh::<FMA>(x),
        Unary::Sigmoid => sigmoid::<FMA>(x),
        Unary::Relu => at_least(x, 0.0),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sign => {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }
        Unary::Not => (x == 0.0) as u8 as f32,
        Unary::IsNan => x.is_nan() as u8 as f32,
        Unary::Clip { min, max } => at_most(at_least(x, min), max),
        Unary::LeakyRelu { slope } => {
            if x < 0.0 {
                slope * x
            } else {
                x
            }
        }
        Unary::HardSigmoid { alpha, beta } => at_most(at_least(alpha * x + beta, 0.0), 1.0),
        Unary::HardSwish => x * at_most(at_least(x / 6.0 + 0.5, 0.0), 1.0),
        Unary::Gelu => 0.5 * x * (1.0 + erf_of_half::<FMA>(x)),
        Unary::GeluTanh => {
            const SQRT_2_OVER_PI: f32 = 0.797_884_6;
            0.5 * x * (1.0 + tanh::<FMA>(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
        }
        Unary::QuickGelu { alpha } => x * sigmoid::<FMA>(alpha * x),
    }
}

struct Apply<'a> {
    u: Unary,
    x: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Apply { u, x } = self;
        // One loop for each function, so that each is free of the match and vectorises by itself.
        macro_rules! loops {
            ($($variant:pat => $made:expr),* $(,)?) => {
                match u {
                    $($variant => for v in x.iter_mut() { *v = value::<FMA>($made, *v); })*
                }
            };
        }
        loops! {
            Unary::Abs => Unary::Abs,
            Unary::Neg => Unary::Neg,
            Unary::Exp => Unary::Exp,
            Unary::Log => Unary::Log,
            Unary::Sqrt => Unary::Sqrt,
            Unary::Reciprocal => Unary::Reciprocal,
            Unary::Erf => Unary::Erf,
            Unary::Tanh => Unary::Tanh,
            Unary::Sigmoid => Unary::Sigmoid,
            Unary::Relu => Unary::Relu,
            Unary::Sin => Unary::Sin,
            Unary::Cos => Unary::Cos,
            Unary::Floor => Unary::Floor,
            Unary::Ceil => Unary::Ceil,
            Unary::Round => Unary::Round,
            Unary::Sign => Unary::Sign,
            Unary::Not => Unary::Not,
            Unary::IsNan => Unary::IsNan,
            Unary::Clip { min, max } => Unary::Clip { min, max },
            Unary::LeakyRelu { slope } => Unary::LeakyRelu { slope },
            Unary::HardSigmoid { alpha, beta } => Unary::HardSigmoid { alpha, beta },
            Unary::HardSwish => Unary::HardSwish,
            Unary::Gelu => Unary::Gelu,
            Unary::GeluTanh => Unary::GeluTanh,
            Unary::QuickGelu { alpha } => Unary::QuickGelu { alpha },
        }
    }
}

/// Copies `from` to the beginning of `to`: for stretches of about a tile's height, too short for a call of `memcpy`.
#[inline(always)]
pub(crate) fn copy_short<T: Copy>(from: &[T], to: &mut [T]) {
    let len = from.len();
    // Two copies of a fixed length that may overlap.
    macro_rules! in_two {
        ($n:literal) => {{
            to[..$n].copy_from_slice(&from[..$n]);
            to[len - $n..len].copy_from_slice(&from[len - $n..]);
        }};
    }
    match len {
        8..=16 => in_two!(8),
        4..8 => in_two!(4),
        _ => to[..len].copy_from_slice(from),
    }
}

/// Replaces each element by `u` of it.
///
/// The predicates ([`Unary::Not`], [`Unary::IsNan`]) leave 1 for true and 0 for false.
pub(crate) fn apply_unary(u: Unary, x: &mut [f32]) {
    dispatch(Apply { u, x });
}

/// Lanes of the accumulators below: two AVX2 registers, so that additions overlap.
const LANES: usize = 16;

/// Elements that the lanes add before their sum goes elsewhere.
const BLOCK: usize = 512;

struct RowMax<'a>(&'a [f32]);

impl Kernel for RowMax<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut chunks = self.0.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (m, &v) in lanes.iter_mut().zip(chunk) {
                *m = if v > *m { v } else { *m };
            }
        }
        let mut max = f32::NEG_INFINITY;
        for &v in lanes.iter().chain(chunks.remainder()) {
            max = if v > max { v } else { max };
        }
        max
    }
}

/// The largest element, NaN aside; minus infinity of none.
pub(crate) fn row_max(x: &[f32]) -> f32 {
    dispatch(RowMax(x))
}

struct ExpSum<'a> {
    x: &'a mut [f32],
    max: f32,
}

impl Kernel for ExpSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        let ExpSum { x, max } = self;
        let mut total = 0.0;
        for block in x.chunks_mut(BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let mut chunks = block.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                for (sum, v) in lanes.iter_mut().zip(chunk) {
                    *v = exp::<FMA>(*v - max);
                    *sum += *v;
                }
            }
            for (sum, v) in lanes.iter_mut().zip(chunks.into_remainder()) {
                *v = exp::<FMA>(*v - max);
                *sum += *v;
            }
            total += sum_lanes(&lanes);
        }
        total
    }
}

/// Replaces each element by e^(x - max) and returns their sum.
pub(crate) fn exp_minus_max_sum(x: &mut [f32], max: f32) -> f32 {
    dispatch(ExpSum { x, max })
}

/// The sum of the lanes as a tree.
#[inline(always)]
fn sum_lanes(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Which terms `sum_of` adds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    /// x
    Plain,
    /// (x - centre)^2
    SquaredDistance,
}

struct Sum<'a> {
    x: &'a [f32],
    centre: f32,
    term: Term,
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> f32 {
        match self.term {
            Term::Plain => sum_terms(self.x, |v| v),
            Term::SquaredDistance => {
                let centre = self.centre;
                sum_terms(self.x, |v| (v - centre) * (v - centre))
            }
        }
    }
}

/// Blocks of [`BLOCK`] elements in [`LANES`] lanes, block sums added as a binary tree: an error of about
/// log2(n) ulp instead of n, without `f64`, which wasm and small Arm cores are slow at.
#[inline(always)]
fn sum_terms(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    // Partial sums of 1, 2, 4, ... blocks, as the digits of a binary counter.
    let mut tree = [0.0f32; 64];
    let mut blocks = 0u64;
    for block in x.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let mut chunks = block.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (sum, &v) in lanes.iter_mut().zip(chunk) {
                *sum += term(v);
            }
        }
        for (sum, &v) in lanes.iter_mut().zip(chunks.remainder()) {
            *sum += term(v);
        }
        let mut sum = sum_lanes(&lanes);
        let mut level = 0;
        while blocks >> level & 1 == 1 {
            sum += tree[level];
            level += 1;
        }
        tree[level] = sum;
        blocks += 1;
    }
    let mut total = 0.0;
    for (level, sum) in tree.iter().enumerate() {
        if blocks >> level & 1 == 1 {
            total += sum;
        }
    }
    total
}

/// The sum of the elements.
pub(crate) fn sum(x: &[f32]) -> f32 {
    dispatch(Sum { x, centre: 0.0, term: Term::Plain })
}

/// The sum of the squared distances from `centre`.
pub(crate) fn sum_squares(x: &[f32], centre: f32) -> f32 {
    dispatch(Sum { x, centre, term: Term::SquaredDistance })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance of `got` from `want` in units in the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        if got as f64 == want || (got.is_infinite() && want.abs() > f32::MAX as f64) {
            return 0.0;
        }
        let exponent = (want.abs().log2().floor() as i32).max(-126);
        (got as f64 - want).abs() / 2f64.powi(exponent - 23)
    }

    /// Every 1009th float of either sign up to `limit`.
    fn sweep(limit: f32) -> impl Iterator<Item = f32> {
        (0..=limit.to_bits()).step_by(1009).map(f32::from_bits).flat_map(|x| [x, -x])
    }

    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, limit: f32, keep: impl Fn(f64) -> bool) -> (f64, f64) {
        let (mut ulp, mut absolute) = (0f64, 0f64);
        for x in sweep(limit) {
            let want = exact(x as f64);
            if keep(want) {
                ulp = ulp.max(ulps(f(x), want));
                absolute = absolute.max((f(x) as f64 - want).abs());
            }
        }
        (ulp, absolute)
    }

    /// erf in f64: Maclaurin series in the middle, continued fraction of erfc in the tails.
    fn erf64(x: f64) -> f64 {
        let t = x.abs();
        let y = if t < 2.5 {
            let (mut term, mut sum) = (t, t);
            for n in 1..80 {
                term *= -t * t / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            2.0 / std::f64::consts::PI.sqrt() * sum
        } else {
            let mut f = t;
            for k in (1..60).rev() {
                f = t + k as f64 / 2.0 / f;
            }
            1.0 - (-t * t).exp() / (f * std::f64::consts::PI.sqrt())
        };
        y.copysign(x)
    }

    fn bounds<const FMA: bool>() {
        let normal = |y: f64| y.abs() >= f32::MIN_POSITIVE as f64 && y <= f32::MAX as f64;
        let (ulp, _) = worst(exp::<FMA>, f64::exp, 110.0, normal);
        println!("exp {ulp} ulp");
        assert!(ulp < 1.5, "exp: {ulp} ulp");
        let (ulp, absolute) = worst(tanh::<FMA>, f64::tanh, 1e6, |_| true);
        println!("tanh {ulp} ulp {absolute}");
        assert!(ulp < 6.0 && absolute < 4e-7, "tanh: {ulp} ulp, {absolute}");
        let (ulp, absolute) = worst(erf::<FMA>, erf64, 1e6, |_| true);
        println!("erf {ulp} ulp {absolute}");
        assert!(ulp < 2.0 && absolute < 2e-7, "erf: {ulp} ulp, {absolute}");
        let (ulp, _) = worst(sigmoid::<FMA>, |x| 1.0 / (1.0 + (-x).exp()), 87.0, |_| true);
        println!("sigmoid {ulp} ulp");
        assert!(ulp < 3.0, "sigmoid: {ulp} ulp");
        let gelu = |x: f64| 0.5 * x * (1.0 + erf64(x / 2f64.sqrt()));
        let gelu_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        let quick = |x: f64| x / (1.0 + (-1.702f32 as f64 * x).exp());
        for x in sweep(1e4) {
            let bound = 4e-7 * (1.0 + x.abs() as f64);
            let near = |u, want: f64| ((value::<FMA>(u, x) as f64) - want).abs() <= bound;
            assert!(near(Unary::Gelu, gelu(x as f64)), "gelu({x})");
            assert!(near(Unary::GeluTanh, gelu_tanh(x as f64)), "gelu_tanh({x})");
            assert!(near(Unary::QuickGelu { alpha: 1.702 }, quick(x as f64)), "quick_gelu({x})");
        }
    }

    #[test]
    fn error_bounds_with_fma() {
        bounds::<true>();
    }

    #[test]
    fn error_bounds_without_fma() {
        bounds::<false>();
    }

    #[test]
    fn limits_and_nan() {
        let inf = f32::INFINITY;
        let of = |u, x: f32| {
            let mut v = [x; 19];
            apply_unary(u, &mut v);
            assert!(v.iter().all(|y| y.to_bits() == v[0].to_bits() || y.is_nan()));
            v[0]
        };
        assert_eq!((of(Unary::Exp, inf), of(Unary::Exp, -inf), of(Unary::Exp, 0.0)), (inf, 0.0, 1.0));
        assert_eq!(of(Unary::Exp, -100.0), (-100f64).exp() as f32);
        assert_eq!((of(Unary::Tanh, inf), of(Unary::Tanh, -inf)), (1.0, -1.0));
        assert_eq!((of(Unary::Erf, inf), of(Unary::Erf, -inf)), (1.0, -1.0));
        assert_eq!((of(Unary::Sigmoid, inf), of(Unary::Sigmoid, -inf)), (1.0, 0.0));
        assert_eq!((of(Unary::Round, 2.5), of(Unary::Round, 3.5), of(Unary::Round, -0.5)), (2.0, 4.0, 0.0));
        assert_eq!((of(Unary::Sign, -3.0), of(Unary::Sign, 0.0)), (-1.0, 0.0));
        let clip = Unary::Clip { min: -1.0, max: 2.0 };
        assert_eq!((of(clip, -5.0), of(clip, 5.0), of(clip, 0.5)), (-1.0, 2.0, 0.5));
        for u in [Unary::Exp, Unary::Tanh, Unary::Erf, Unary::Sigmoid, Unary::Relu, Unary::Gelu, Unary::Sign, clip] {
            assert!(of(u, f32::NAN).is_nan(), "{u:?}");
        }
    }

    #[test]
    fn sums_are_accurate_and_rows_of_any_length_work() {
        for n in [0usize, 1, 15, 16, 17, 511, 512, 513, 5000, 1 << 20] {
            let x: Vec<f32> = (0..n).map(|i| 0.1 + (i % 7) as f32 * 1e-3).collect();
            let want: f64 = x.iter().map(|&v| v as f64).sum();
            assert!((sum(&x) as f64 - want).abs() <= want * 3e-7, "{n}");
            let want: f64 = x.iter().map(|&v| (v as f64 - 0.5).powi(2)).sum();
            assert!((sum_squares(&x, 0.5) as f64 - want).abs() <= want * 5e-7, "{n}");
            assert_eq!(row_max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut e = x.clone();
            let total = exp_minus_max_sum(&mut e, 0.2) as f64;
            let want: f64 = x.iter().map(|&v| (v as f64 - 0.2f32 as f64).exp()).sum();
            assert!((total - want).abs() <= want * 1e-4, "{n}");
        }
    }
}
