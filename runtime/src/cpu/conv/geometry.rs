//! The sizes of a convolution or a pooling, brought to three spatial dimensions.

use crate::error::KernelError;
use crate::graph::Window;
use crate::tensor::element_count;

/// Sizes in the order depth, height, width; dimensions that the tensors lack are 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) input: [usize; 3],
    pub(crate) kernel: [usize; 3],
    pub(crate) output: [usize; 3],
    pub(crate) strides: [usize; 3],
    pub(crate) dilations: [usize; 3],
    /// Padding before the first element.
    pub(crate) before: [usize; 3],
    /// Padding behind the last element.
    pub(crate) after: [usize; 3],
}

impl Geometry {
    /// For an input of shape [N, C, spatial...] and a window of `kernel` elements.
    pub(crate) fn of(
        op: &'static str,
        x: &[usize],
        kernel: &[usize],
        window: &Window,
        ceil: bool,
    ) -> Result<Self, KernelError> {
        let invalid = |why: String| KernelError::Invalid(format!("{op}: {why}"));
        let [batch, channels, spatial @ ..] = x else {
            return Err(invalid(format!("an input of shape {x:?} has no batch and channels")));
        };
        let rank = spatial.len();
        if rank == 0 || rank > 3 {
            let reason = format!("{rank} spatial dimensions");
            return Err(KernelError::Unsupported { backend: "cpu", op, reason });
        }
        let pads_fit = match &window.pads {
            crate::graph::Padding::Explicit(pads) => pads.len() == 2 * rank,
            _ => true,
        };
        let fits = kernel.len() == rank && window.strides.len() == rank && window.dilations.len() == rank;
        if !fits || !pads_fit {
            return Err(invalid(format!("a window of another rank than the input {x:?}")));
        }
        if window.strides.contains(&0) || window.dilations.contains(&0) || kernel.contains(&0) {
            return Err(invalid("a kernel size, stride or dilation of zero".into()));
        }
        element_count(x)?;
        let mut g = Geometry {
            batch: *batch,
            channels: *channels,
            input: [1; 3],
            kernel: [1; 3],
            output: [1; 3],
            strides: [1; 3],
            dilations: [1; 3],
            before: [0; 3],
            after: [0; 3],
        };
        let mut padded = [1; 3];
        for i in 0..rank {
            let d = 3 - rank + i;
            g.input[d] = spatial[i];
            g.kernel[d] = kernel[i];
            g.strides[d] = window.strides[i];
            g.dilations[d] = window.dilations[i];
            let overflow = || invalid("sizes too large".into());
            kernel[i].checked_mul(window.dilations[i]).ok_or_else(overflow)?;
            (g.before[d], g.after[d]) = window.pads_of(i, spatial[i], kernel[i]);
            let all = spatial[i].checked_add(g.before[d]).and_then(|s| s.checked_add(g.after[d]));
            padded[d] = all.ok_or_else(overflow)?;
            g.output[d] = window
                .output_of(i, spatial[i], kernel[i], ceil)
                .ok_or_else(|| invalid(format!("a window of {kernel:?} does not fit the padded input {spatial:?}")))?;
        }
        element_count(&padded)?;
        element_count(&[g.batch, g.channels, g.output[0], g.output[1], g.output[2]])?;
        Ok(g)
    }

    /// Elements of one channel of the input.
    pub(crate) fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one channel of the output.
    pub(crate) fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// Elements of the window.
    pub(crate) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether the window is one element that visits each input element in order.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == [1; 3] && self.strides == [1; 3] && self.before == [0; 3] && self.after == [0; 3]
    }

    /// The outputs along dimension `d` for which element `tap` of the window lies inside the input.
    pub(crate) fn valid(&self, d: usize, tap: usize) -> std::ops::Range<usize> {
        let (shift, stride) = (tap * self.dilations[d], self.strides[d]);
        let first = self.before[d].saturating_sub(shift).div_ceil(stride);
        // The input position is o * stride + shift - before, which must stay below the input's size.
        let end = (self.input[d] + self.before[d]).saturating_sub(shift).div_ceil(stride).min(self.output[d]);
        first.min(end)..end
    }

    /// The input position of output `o` and element `tap` along dimension `d`, if it is not padding.
    #[inline]
    pub(crate) fn source(&self, d: usize, o: usize, tap: usize) -> Option<usize> {
        (o * self.strides[d] + tap * self.dilations[d]).checked_sub(self.before[d]).filter(|&i| i < self.input[d])
    }
}

/// Checks the channel groups of a convolution; returns the filters of one group.
pub(crate) fn filters_per_group(
    op: &'static str,
    x: &[usize],
    w: &[usize],
    groups: usize,
) -> Result<usize, KernelError> {
    let ok = x.len() >= 3
        && w.len() == x.len()
        && groups > 0
        && w[0].is_multiple_of(groups)
        && w[1].checked_mul(groups) == Some(x[1]);
    if !ok {
        let why = format!("{op}: filters of shape {w:?} in {groups} groups do not fit an input of shape {x:?}");
        return Err(KernelError::Invalid(why));
    }
    element_count(w)?;
    Ok(w[0] / groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Padding;

    #[test]
    fn ranges_and_sources_agree() {
        for (input, kernel, stride, dilation, before, after) in
            [(7, 3, 1, 1, 1, 1), (8, 3, 2, 1, 0, 1), (5, 2, 3, 2, 4, 0), (1, 5, 1, 1, 2, 2), (9, 1, 2, 1, 0, 0)]
        {
            let window = Window {
                strides: vec![stride],
                dilations: vec![dilation],
                pads: Padding::Explicit(vec![before, after]),
            };
            let g = Geometry::of("Conv", &[1, 1, input], &[kernel], &window, false).unwrap();
            for tap in 0..kernel {
                let valid = g.valid(2, tap);
                for o in 0..g.output[2] {
                    assert_eq!(valid.contains(&o), g.source(2, o, tap).is_some(), "{g:?} tap {tap} output {o}");
                }
            }
        }
    }

    #[test]
    fn bad_windows_are_errors() {
        let window = |strides: &[usize], pads: &[usize]| Window {
            strides: strides.to_vec(),
            dilations: vec![1; strides.len()],
            pads: Padding::Explicit(pads.to_vec()),
        };
        let of = |x: &[usize], k: &[usize], w: &Window| Geometry::of("Conv", x, k, w, false);
        assert!(of(&[1, 1, 4, 4], &[3, 3], &window(&[1, 1], &[0; 4])).is_ok());
        assert!(of(&[1, 1, 2, 4], &[3, 3], &window(&[1, 1], &[0; 4])).is_err());
        assert!(of(&[1, 1, 4, 4], &[3, 3], &window(&[0, 1], &[0; 4])).is_err());
        assert!(of(&[1, 1, 4, 4], &[3, 3], &window(&[1, 1], &[0; 2])).is_err());
        assert!(of(&[1, 1, 4, 4], &[3], &window(&[1], &[0; 2])).is_err());
        assert!(of(&[1, 1], &[], &window(&[], &[])).is_err());
        assert!(filters_per_group("Conv", &[1, 4, 5], &[6, 2, 3], 2).is_ok_and(|m| m == 3));
        assert!(filters_per_group("Conv", &[1, 4, 5], &[5, 2, 3], 2).is_err());
        assert!(filters_per_group("Conv", &[1, 4, 5], &[6, 3, 3], 2).is_err());
        assert!(filters_per_group("Conv", &[1, 4, 5], &[6, 2, 3], 0).is_err());
    }
}
