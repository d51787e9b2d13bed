//! The sizes of a window moving over planes.

use crate::graph::{Pool, Window};

/// A convolution or pooling over two spatial dimensions; one-dimensional ones have a first dimension of 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) images: usize,
    /// Output channels.
    pub(super) channels: usize,
    pub(super) groups: usize,
    /// Input channels of a group.
    pub(super) group_in: usize,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    /// Before the input.
    pub(super) pad: [usize; 2],
    /// Behind it.
    pub(super) pad_end: [usize; 2],
}

impl Geometry {
    /// `None` if the shapes do not fit each other, or over three spatial dimensions and more.
    pub(super) fn new(x: &[usize], w: &[usize], y: &[usize], groups: usize, window: &Window) -> Option<Geometry> {
        let [images, channels_in, x_space @ ..] = x else { return None };
        let [channels, group_in, kernel @ ..] = w else { return None };
        let fits = groups > 0
            && channels_in.checked_div(groups)? == *group_in
            && group_in * groups == *channels_in
            && channels.is_multiple_of(groups);
        if !fits {
            return None;
        }
        let mut g = Self::window(x_space, kernel, window, false)?;
        (g.images, g.channels, g.groups, g.group_in) = (*images, *channels, groups, *group_in);
        g.matches(y).then_some(g)
    }

    pub(super) fn pool(x: &[usize], y: &[usize], op: &Pool) -> Option<Geometry> {
        let [images, channels, space @ ..] = x else { return None };
        let mut g = Self::window(space, &op.kernel, &op.window, op.ceil)?;
        (g.images, g.channels) = (*images, *channels);
        g.matches(y).then_some(g)
    }

    fn window(input: &[usize], kernel: &[usize], window: &Window, ceil: bool) -> Option<Geometry> {
        let rank = input.len();
        if !matches!(rank, 1 | 2) || [kernel.len(), window.strides.len(), window.dilations.len()] != [rank; 3] {
            return None;
        }
        if let crate::graph::Padding::Explicit(pads) = &window.pads
            && pads.len() != 2 * rank
        {
            return None;
        }
        if kernel.contains(&0) || window.strides.contains(&0) {
            return None;
        }
        let mut g = Geometry {
            images: 1,
            channels: 1,
            groups: 1,
            group_in: 1,
            input: [1; 2],
            output: [1; 2],
            kernel: [1; 2],
            stride: [1; 2],
            dilation: [1; 2],
            pad: [0; 2],
            pad_end: [0; 2],
        };
        for i in 0..rank {
            let at = 2 - rank + i;
            (g.input[at], g.kernel[at]) = (input[i], kernel[i]);
            (g.stride[at], g.dilation[at]) = (window.strides[i], window.dilations[i]);
            (g.pad[at], g.pad_end[at]) = window.pads_of(i, input[i], kernel[i]);
            g.output[at] = window.output_of(i, input[i], kernel[i], ceil)?;
        }
        Some(g)
    }

    /// Whether `y` is the output's shape.
    fn matches(&self, y: &[usize]) -> bool {
        match *y {
            [n, c, w] => [n, c] == [self.images, self.channels] && [1, w] == self.output,
            [n, c, h, w] => [n, c] == [self.images, self.channels] && [h, w] == self.output,
            _ => false,
        }
    }

    /// Output channels of a group.
    pub(super) fn group_out(&self) -> usize {
        self.channels / self.groups
    }

    /// Output elements of a channel.
    pub(super) fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }
}
