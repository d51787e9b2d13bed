//! What happens to sums on their way to the output: scale, bias, activation, residual.

use crate::cpu::math;
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
            math::apply_unary(activation, x);
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
