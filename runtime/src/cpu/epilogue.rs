//! What happens to sums on their way to the output: scale, bias, activation, residual, a last Relu.

use crate::cpu::math;
use crate::error::KernelError;
use crate::graph::Unary;

/// `y = activation(x + bias) + residual`, or the larger of that and 0, applied to one stretch of a row at a time while it is in the cache.
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
    /// A Relu follows the residual.
    pub(crate) relu: bool,
}

impl Epilogue<'_> {
    /// Finishes `x`, the sums of `row` from `column` on, and writes them to `out`, the output from element `at` on.
    #[inline]
    pub(crate) fn finish(&self, row: usize, column: usize, at: usize, x: &mut [f32], out: &mut [f32]) {
        let len = x.len();
        let bias = match (self.column_bias, self.row_bias) {
            (Some(bias), _) => Bias::Each(&bias[column..][..len]),
            (None, Some(bias)) => Bias::One(bias[row]),
            (None, None) => Bias::None,
        };
        let residual = self.residual.map(|residual| &residual[at..][..len]);
        let out = &mut out[..len];
        math::dispatch(Finish { x, bias, activation: self.activation, residual, relu: self.relu, out });
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

#[derive(Clone, Copy)]
enum Bias<'a> {
    None,
    One(f32),
    Each(&'a [f32]),
}

/// One stretch: all slices have one length.
struct Finish<'a> {
    x: &'a mut [f32],
    bias: Bias<'a>,
    activation: Option<Unary>,
    residual: Option<&'a [f32]>,
    relu: bool,
    out: &'a mut [f32],
}

impl math::Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Finish { x, bias, activation, residual, relu, out } = self;
        let positive = |x: f32| if x < 0.0 { 0.0 } else { x };
        // What is cheap goes into the loop that writes; other activations take a pass of their own.
        match activation {
            None => write(x, bias, residual, out, |x| x),
            Some(Unary::Relu) => write(x, bias, residual, out, positive),
            Some(activation) => {
                match bias {
                    Bias::None => (),
                    Bias::One(b) => x.iter_mut().for_each(|x| *x += b),
                    Bias::Each(bias) => x.iter_mut().zip(bias).for_each(|(x, b)| *x += b),
                }
                math::apply_unary(activation, x);
                write(x, Bias::None, residual, out, |x| x);
            }
        }
        // The stretch is in the nearest cache.
        if relu {
            out.iter_mut().for_each(|x| *x = positive(*x));
        }
    }
}

/// `out = activation(x + bias) + residual`.
#[inline(always)]
fn write(x: &[f32], bias: Bias<'_>, residual: Option<&[f32]>, out: &mut [f32], activation: impl Fn(f32) -> f32) {
    let all = out.iter_mut().zip(x);
    match (bias, residual) {
        (Bias::None, None) => all.for_each(|(out, &x)| *out = activation(x)),
        (Bias::One(b), None) => all.for_each(|(out, &x)| *out = activation(x + b)),
        (Bias::Each(bias), None) => all.zip(bias).for_each(|((out, &x), b)| *out = activation(x + b)),
        (Bias::None, Some(r)) => all.zip(r).for_each(|((out, &x), r)| *out = activation(x) + r),
        (Bias::One(b), Some(r)) => all.zip(r).for_each(|((out, &x), r)| *out = activation(x + b) + r),
        (Bias::Each(bias), Some(r)) => {
            all.zip(bias).zip(r).for_each(|(((out, &x), b), r)| *out = activation(x + b) + r);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations() {
        let y = |u: Unary, x: f32| {
            let mut x = [x];
            math::apply_unary(u, &mut x);
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
    fn the_order_is_bias_activation_residual_relu() {
        let epilogue = Epilogue {
            activation: Some(Unary::Relu),
            column_bias: Some(&[0.0, 1.0, -5.0]),
            row_bias: None,
            residual: Some(&[9.0, 10.0, -20.0]),
            relu: false,
        };
        let mut out = [0.0; 2];
        epilogue.finish(0, 1, 1, &mut [1.0, 2.0], &mut out);
        assert_eq!(out, [12.0, -20.0]);
        Epilogue { relu: true, ..epilogue }.finish(0, 1, 1, &mut [1.0, 2.0], &mut out);
        assert_eq!(out, [12.0, 0.0]);
        assert!(Epilogue::check("MatMul", Some(Unary::IsNan)).is_err());
    }
}
