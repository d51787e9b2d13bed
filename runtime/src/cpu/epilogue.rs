//! What happens to sums on their way to the output: scale, bias, activation, residual.

use crate::error::KernelError;
use crate::graph::Unary;

/// `y = activation(x + bias) + residual`, applied to one stretch of a row at a time while it is in the cache.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Applied after the bias.
    pub(crate) activation: Option<Unary>,
    /// One number for each column.
    pub(crate) column_bias: Option<&'a [f32]>,
    /// One number for each row.
    pub(crate) row_bias: Option<&'a [f32]>,
    /// Of the output's shape.
    pub(crate) residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// Finishes `x`, the sums of `row` from `column` on, and writes them to `out`, the output from element `at` on.
    #[inline]
    pub(crate) fn finish(&self, row: usize, column: usize, at: usize, x: &mut [f32], out: &mut [f32]) {
        if let Some(bias) = self.column_bias {
            x.iter_mut().zip(&bias[column..]).for_each(|(x, b)| *x += b);
        }
        if let Some(bias) = self.row_bias {
            let b = bias[row];
            x.iter_mut().for_each(|x| *x += b);
        }
        if let Some(activation) = self.activation {
            apply(activation, x);
        }
        match self.residual {
            Some(residual) => {
                for ((out, x), r) in out.iter_mut().zip(x.iter()).zip(&residual[at..]) {
                    *out = x + r;
                }
            }
            None => out.copy_from_slice(x),
        }
    }

    /// An error unless the activation is one that can follow a product in place.
    pub(crate) fn check(op: &'static str, activation: Option<Unary>) -> Result<(), KernelError> {
        match activation {
            Some(Unary::Not | Unary::IsNan) => Err(KernelError::Unsupported {
                backend: "cpu",
                op,
                reason: "an activation whose result is not a float".into(),
            }),
            _ => Ok(()),
        }
    }
}

/// `x = unary(x)` in place.
pub(crate) fn apply(unary: Unary, x: &mut [f32]) {
    let mut each = |f: &dyn Fn(f32) -> f32| x.iter_mut().for_each(|x| *x = f(*x));
    match unary {
        Unary::Relu => x.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }),
        Unary::Clip { min, max } => x.iter_mut().for_each(|x| *x = clip(*x, min, max)),
        Unary::LeakyRelu { slope } => x.iter_mut().for_each(|x| *x = if *x >= 0.0 { *x } else { slope * *x }),
        Unary::HardSwish => x.iter_mut().for_each(|x| *x *= clip(*x / 6.0 + 0.5, 0.0, 1.0)),
        Unary::HardSigmoid { alpha, beta } => x.iter_mut().for_each(|x| *x = clip(alpha * *x + beta, 0.0, 1.0)),
        Unary::Sigmoid => each(&sigmoid),
        Unary::Tanh => each(&f32::tanh),
        Unary::QuickGelu { alpha } => each(&|x| x * sigmoid(alpha * x)),
        Unary::Gelu => each(&|x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        Unary::GeluTanh => each(&|x| {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }),
        Unary::Erf => each(&erf),
        Unary::Abs => each(&f32::abs),
        Unary::Neg => each(&|x| -x),
        Unary::Exp => each(&f32::exp),
        Unary::Log => each(&f32::ln),
        Unary::Sqrt => each(&f32::sqrt),
        Unary::Reciprocal => each(&|x| 1.0 / x),
        Unary::Sin => each(&f32::sin),
        Unary::Cos => each(&f32::cos),
        Unary::Floor => each(&f32::floor),
        Unary::Ceil => each(&f32::ceil),
        Unary::Round => each(&f32::round_ties_even),
        Unary::Sign => each(&|x| {
            if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            }
        }),
        // Not floats; `Epilogue::check` keeps them away.
        Unary::Not | Unary::IsNan => {}
    }
}

/// `min(max(x, low), high)` that keeps NaN.
#[inline(always)]
fn clip(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// 1 / (1 + e^-x) without overflow.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function within 2e-7: its series below 2, the continued fraction of its complement above.
fn erf(x: f32) -> f32 {
    let t = x.abs() as f64;
    if t >= 4.0 {
        return 1f32.copysign(x);
    }
    let value = if t < 2.0 {
        let (mut term, mut sum) = (t, t);
        for n in 1..30 {
            term *= -t * t / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = t;
        for n in (1..40).rev() {
            fraction = t + n as f64 / 2.0 / fraction;
        }
        1.0 - (-t * t).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    if x.is_nan() { x } else { (value as f32).copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations() {
        let y = |u: Unary, x: f32| {
            let mut x = [x];
            apply(u, &mut x);
            x[0]
        };
        for (u, x, want) in [
            (Unary::Relu, -1.0, 0.0),
            (Unary::Clip { min: 0.0, max: 6.0 }, 7.0, 6.0),
            (Unary::LeakyRelu { slope: 0.1 }, -2.0, -0.2),
            (Unary::HardSwish, 1.0, 2.0 / 3.0),
            (Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, 1.0, 0.7),
            (Unary::Sigmoid, 1.0, 0.731_058_6),
            (Unary::Tanh, 1.0, 0.761_594_2),
            (Unary::Gelu, 1.0, 0.841_344_7),
            (Unary::Gelu, -3.0, -0.004_049_694),
            (Unary::GeluTanh, 1.0, 0.841_192),
            (Unary::QuickGelu { alpha: 1.702 }, 1.0, 0.845_796_4),
            (Unary::QuickGelu { alpha: 1.0 }, -100.0, 0.0),
            (Unary::Erf, 2.5, 0.999_593),
            (Unary::Erf, -0.5, -0.520_499_9),
        ] {
            assert!((y(u, x) - want).abs() < 2e-6, "{u:?} of {x}: {} not {want}", y(u, x));
        }
        assert!(y(Unary::Relu, f32::NAN).is_nan() && y(Unary::Erf, f32::NAN).is_nan());
    }

    #[test]
    fn the_order_is_bias_activation_residual() {
        let epilogue = Epilogue {
            activation: Some(Unary::Relu),
            column_bias: Some(&[0.0, 1.0, -5.0]),
            row_bias: None,
            residual: Some(&[9.0, 10.0, 20.0]),
        };
        let mut out = [0.0; 2];
        epilogue.finish(0, 1, 1, &mut [1.0, 2.0], &mut out);
        assert_eq!(out, [12.0, 20.0]);
        assert!(Epilogue::check("MatMul", Some(Unary::IsNan)).is_err());
    }
}
