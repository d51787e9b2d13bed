//! Sums of products of bytes on their way to integers or floats.

use crate::cpu::math;

/// What zero points contributed to the sums of a stretch of one row: `zero * columns + constant`, or with a zero point
/// for each column `zero * columns + zeros * rest`; see [`super::quads`].
#[derive(Clone, Copy)]
pub(crate) enum Correction<'a> {
    /// Nothing: the zero points were subtracted beforehand.
    None,
    /// The same for all columns.
    Constant(i32),
    /// One zero point for all columns.
    Columns { zero: i32, columns: &'a [i32], constant: i32 },
    /// A zero point for each column.
    Zeros { zero: i32, columns: &'a [i32], zeros: &'a [i32], rest: i32 },
}

/// A stretch of one row of a product.
pub(crate) struct Sums<'a> {
    /// Whoever finishes them may overwrite them.
    pub(crate) data: &'a mut [i32],
    pub(crate) correction: Correction<'a>,
}

/// What sums are multiplied by.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    /// The same for all.
    One(f32),
    /// The product of the first and each of the second.
    Each(f32, &'a [f32]),
}

impl<'a> Sums<'a> {
    /// The sums as they are, exact in wrapping arithmetic.
    pub(crate) fn exact(self) -> &'a mut [i32] {
        let Sums { data, correction } = self;
        math::dispatch(Exact { data: &mut *data, correction });
        data
    }

    /// The sums as floats, scaled, in the same memory.
    pub(crate) fn scaled(self, factor: Factor<'_>) -> &'a mut [f32] {
        let Sums { data, correction } = self;
        math::dispatch(Scaled { data: &mut *data, correction, factor });
        bytemuck::cast_slice_mut(data)
    }
}

/// `data = write(i, data - correction)` for each element.
#[inline(always)]
fn each(data: &mut [i32], correction: Correction<'_>, write: impl Fn(usize, i32) -> i32) {
    let all = data.iter_mut().enumerate();
    match correction {
        Correction::None => all.for_each(|(i, s)| *s = write(i, *s)),
        Correction::Constant(constant) => all.for_each(|(i, s)| *s = write(i, s.wrapping_sub(constant))),
        Correction::Columns { zero, columns, constant } => all.zip(columns).for_each(|((i, s), c)| {
            *s = write(i, s.wrapping_sub(zero.wrapping_mul(*c)).wrapping_sub(constant));
        }),
        Correction::Zeros { zero, columns, zeros, rest } => all.zip(columns).zip(zeros).for_each(|(((i, s), c), z)| {
            *s = write(i, s.wrapping_sub(zero.wrapping_mul(*c)).wrapping_sub(z.wrapping_mul(rest)));
        }),
    }
}

struct Exact<'a> {
    data: &'a mut [i32],
    correction: Correction<'a>,
}

impl math::Kernel for Exact<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        if !matches!(self.correction, Correction::None) {
            each(self.data, self.correction, |_, s| s);
        }
    }
}

struct Scaled<'a, 'f> {
    data: &'a mut [i32],
    correction: Correction<'a>,
    factor: Factor<'f>,
}

impl math::Kernel for Scaled<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = |s: i32, factor: f32| (s as f32 * factor).to_bits() as i32;
        match self.factor {
            Factor::One(factor) => each(self.data, self.correction, |_, s| scale(s, factor)),
            Factor::Each(one, many) => {
                let many = &many[..self.data.len()];
                each(self.data, self.correction, |i, s| scale(s, one * many[i]));
            }
        }
    }
}
