//! The filters of a convolution, wherever their elements are.

use std::sync::Arc;

use crate::cpu::Cpu;
use crate::cpu::matmul::pack::{Matrix, Widen, unpack_columns, unpack_rows};
use crate::cpu::packed::Form;
use crate::tensor::{AlignedBytes, ConstantId};

/// Groups of `m` filters of `k` elements each.
pub(super) struct Filters<'a, S> {
    cpu: &'a Cpu,
    elements: &'a [S],
    /// The constant, of one group, whose elements the backend keeps instead.
    kept: Option<ConstantId>,
    m: usize,
    k: usize,
}

impl<'a, S: Widen> Filters<'a, S> {
    /// Those in `elements`, or if there are none, those that the backend keeps of `constant`.
    pub(super) fn new(cpu: &'a Cpu, elements: &'a [S], constant: Option<ConstantId>, (m, k): (usize, usize)) -> Self {
        Filters { cpu, elements, kept: constant.filter(|_| elements.is_empty() && m * k > 0), m, k }
    }

    /// Packs a group as panels of rows; see [`Matrix::pack_rows`].
    pub(super) fn pack_rows(&self, threads: usize, group: usize, mr: usize, out: &mut [f32]) {
        match self.kept {
            Some(id) => self.rows(self.kept(id).as_slice(), 0).pack_rows(threads, mr, out),
            None => self.rows(self.elements, group).pack_rows(threads, mr, out),
        }
    }

    /// Packs a group, a filter a column, as panels of columns; see [`Matrix::pack_columns`].
    pub(super) fn pack_columns(&self, threads: usize, group: usize, nr: usize, out: &mut [f32]) {
        match self.kept {
            Some(id) => self.rows(self.kept(id).as_slice(), 0).transposed().pack_columns(threads, nr, out),
            None => self.rows(self.elements, group).transposed().pack_columns(threads, nr, out),
        }
    }

    fn rows<'m, T: Widen>(&self, elements: &'m [T], group: usize) -> Matrix<'m, T> {
        let size = self.m * self.k;
        Matrix::new(&elements[group * size..][..size], self.m, self.k, (self.k, 1))
    }

    fn kept(&self, id: ConstantId) -> Kept {
        let (m, k, kernel) = (self.m, self.k, self.cpu.kernels().f32);
        let elements = self.cpu.packed.elements(id, |form, packed| {
            let mut room = AlignedBytes::zeroed(m * k * size_of::<f32>());
            let (packed, out) = (bytemuck::cast_slice(packed), bytemuck::cast_slice_mut(room.as_mut_slice()));
            match form {
                Form::Columns { .. } => unpack_columns((k, m), kernel.nr, packed, out),
                _ => unpack_rows((m, k), kernel.mr, packed, out),
            }
            room
        });
        Kept(elements.expect("a constant without elements is the backend's"))
    }
}

/// Elements that the backend keeps.
struct Kept(Arc<AlignedBytes>);

impl Kept {
    fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packed one way and then the other, kept elements make the same panels as given ones.
    #[test]
    fn kept_filters_pack_as_given_ones() {
        for (m, k) in [(1, 1), (5, 7), (32, 9), (33, 64), (70, 30)] {
            for (first, cpu) in Cpu::of_every_kind().flat_map(|cpu| {
                let (threads, kernels) = (cpu.threads(), cpu.kernels);
                [(false, cpu), (true, Cpu::with_kernels(threads, kernels))]
            }) {
                let (mr, nr) = (cpu.kernels().f32.mr, cpu.kernels().f32.nr);
                let elements: Vec<f32> = (0..m * k).map(|i| i as f32).collect();
                let mut memory = AlignedBytes::zeroed(m * k * 4);
                memory.as_mut_slice().copy_from_slice(bytemuck::cast_slice(&elements));
                let id = ConstantId(3);
                cpu.keep(id, memory);
                let given = Filters::new(&cpu, &elements, None, (m, k));
                let kept = Filters::<f32>::new(&cpu, &[], Some(id), (m, k));
                for columns in [first, !first] {
                    let form = if columns {
                        Form::Columns { matrices: 1, k, n: m, transposed: true }
                    } else {
                        Form::Rows { groups: 1, m, k }
                    };
                    let len = if columns { m.next_multiple_of(nr) * k } else { m.div_ceil(mr) * mr * k };
                    let pack = |filters: &Filters<'_, f32>, out: &mut [f32]| match columns {
                        true => filters.pack_columns(1, 0, nr, out),
                        false => filters.pack_rows(1, 0, mr, out),
                    };
                    let mut want = vec![0.0; len];
                    pack(&given, &mut want);
                    let got = cpu.packed.get(id, form, len * 4, |out| pack(&kept, bytemuck::cast_slice_mut(out)));
                    assert_eq!(bytemuck::cast_slice::<u8, f32>(got.as_slice()), want, "{m} x {k}, {columns}");
                }
            }
        }
    }
}
