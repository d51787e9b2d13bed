//! Packed forms of a model's constants, made at first use and shared by all runs of a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Cpu;
use super::matmul::Context;
use crate::tensor::{AlignedBytes, ConstantId};

/// What a constant was packed into. Shapes are part of it because one constant may be read through several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Not packed: f32 elements that wait for a kernel to choose a form, and give way to it.
    Elements,
    /// f32 panels of columns of `matrices` matrices of `k` x `n`.
    Columns { matrices: usize, k: usize, n: usize, transposed: bool },
    /// f32 panels of rows: `groups` matrices of `m` x `k`.
    Rows { groups: usize, m: usize, k: usize },
    /// Filters of 3 x 3 elements transformed for `conv/winograd.rs`: 16 times panels of rows, f32, `m` x `channels`.
    Winograd { m: usize, channels: usize },
    /// All elements as f32, in their order, less the zero points of the constant `zero`.
    Floats { zero: Option<ConstantId> },
    /// Panels of columns in bytes.
    ByteColumns { matrices: usize, k: usize, n: usize },
    /// Panels of columns in quads of bytes, each matrix with the sums of its columns behind.
    Quads { matrices: usize, k: usize, n: usize },
    /// Panels of rows in quads of bytes, each group with the sums of its rows behind.
    QuadRows { groups: usize, m: usize, k: usize },
    /// 16-bit panels of rows less the zero points of the constant `zero`.
    WideRows { groups: usize, m: usize, k: usize, zero: Option<ConstantId> },
}

/// Packed constants by identity and form.
#[derive(Default)]
pub(crate) struct PackCache {
    entries: Mutex<HashMap<(ConstantId, Form), Arc<AlignedBytes>>>,
    /// While a model's weights are packed one after another, memory of packed forms that moved, for the next ones: allocators that
    /// align to cache lines seldom fit a block into one that was as long.
    spare: Mutex<Option<Vec<AlignedBytes>>>,
}

/// Blocks of spare memory at most: a model's weights have a few sizes.
const SPARE: usize = 4;

impl PackCache {
    /// The packed form of constant `id`, from the cache or made by `pack`, which fills `len` zero bytes.
    ///
    /// The lock is not held while packing, because that may use threads that wait for it themselves; two runs that
    /// meet here at first use may both pack, and one result is dropped.
    pub(crate) fn get(
        &self,
        id: ConstantId,
        form: Form,
        len: usize,
        pack: impl FnOnce(&mut [u8]),
    ) -> Arc<AlignedBytes> {
        let lock = || self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(&(id, form)) {
            return found.clone();
        }
        let mut bytes = self.take_spare(len).unwrap_or_else(|| AlignedBytes::zeroed(len));
        pack(bytes.as_mut_slice());
        let mut entries = lock();
        let packed = entries.entry((id, form)).or_insert_with(|| Arc::new(bytes)).clone();
        let elements = entries.remove(&(id, Form::Elements)).and_then(Arc::into_inner);
        drop(entries);
        match elements {
            Some(memory) => {
                drop(packed);
                self.settle(id, memory);
                lock().get(&(id, form)).expect("nothing but elements is ever taken out").clone()
            }
            None => packed,
        }
    }

    /// Whether constant `id` is held in this form.
    pub(crate) fn has(&self, id: ConstantId, form: Form) -> bool {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(id, form))
    }

    /// Keeps the elements of constant `id` until a kernel chooses a form for them.
    pub(crate) fn keep(&self, id: ConstantId, elements: AlignedBytes) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.keys().any(|(of, _)| *of == id) {
            entries.insert((id, Form::Elements), Arc::new(elements));
        }
    }

    /// The elements of a constant that [`PackCache::keep`] was given: as they were, or what `unpack` makes of a form that a
    /// kernel chose before.
    pub(crate) fn elements(
        &self,
        id: ConstantId,
        unpack: impl FnOnce(Form, &[u8]) -> AlignedBytes,
    ) -> Option<Arc<AlignedBytes>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(elements) = entries.get(&(id, Form::Elements)) {
            return Some(elements.clone());
        }
        let (form, packed) = entries.iter().find(|((of, _), _)| *of == id).map(|((_, form), p)| (*form, p.clone()))?;
        drop(entries);
        Some(Arc::new(unpack(form, packed.as_slice())))
    }

    /// Moves the one form of constant `id` to `memory`, if it fits and is not in use.
    ///
    /// A model's weights are packed one after another. An allocator that cannot fit a packed weight into what the elements of
    /// others left, some bytes short, would take new memory for most of them; this way it needs room for one more only.
    pub(crate) fn settle(&self, id: ConstantId, memory: AlignedBytes) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut forms = entries.iter_mut().filter(|((of, _), _)| *of == id);
        let (Some((_, packed)), None) = (forms.next(), forms.next()) else { return };
        if Arc::strong_count(packed) == 1
            && let Some(mut memory) = memory.holding(packed.len())
        {
            memory.as_mut_slice().copy_from_slice(packed.as_slice());
            let moved = Arc::into_inner(std::mem::replace(packed, Arc::new(memory)));
            drop(entries);
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(spare) = &mut *spare {
                spare.extend(moved);
                if spare.len() > SPARE {
                    spare.remove(0);
                }
            }
        }
    }

    /// Zeroed memory of `len` bytes that was another form's, if some is hardly longer.
    fn take_spare(&self, len: usize) -> Option<AlignedBytes> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |memory: &AlignedBytes| (len..=len + len / 16).contains(&memory.room());
        let blocks = spare.as_mut()?;
        let found = blocks.iter().position(fits)?;
        let mut memory = blocks.swap_remove(found).holding(len)?;
        drop(spare);
        memory.as_mut_slice().fill(0);
        Some(memory)
    }

    /// From now on until the next call memory is kept for the next form, if `many` are to come; else it is let go.
    pub(crate) fn expect(&self, many: bool) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = many.then(Vec::new);
    }

    /// Bytes held.
    #[allow(dead_code)]
    pub(crate) fn bytes(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().map(|b| b.len()).sum()
    }
}

/// A packed operand: of a constant, from the cache; otherwise in scratch memory for one call.
pub(crate) enum Packed {
    /// `len` bytes from `at` on, shared.
    Cached { all: Arc<AlignedBytes>, at: usize, len: usize },
    /// For this call.
    Scratch(AlignedBytes),
}

impl Packed {
    /// The elements.
    pub(crate) fn as_slice<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(match self {
            Packed::Cached { all, at, len } => &all.as_slice()[*at..][..*len],
            Packed::Scratch(bytes) => bytes.as_slice(),
        })
    }
}

/// The packed operands of a batch of products, equally long: a constant's are all kept, others are packed when one is
/// asked for. `pack(threads, i, out)` packs operand i.
pub(crate) struct Operands<P> {
    all: Option<Arc<AlignedBytes>>,
    len: usize,
    pack: P,
}

impl<P: Fn(usize, usize, &mut [u8])> Operands<P> {
    /// `count` operands of `len` bytes, of a constant and its form or computed. Of a constant that is packed already, `len` does not
    /// matter.
    pub(crate) fn new(cpu: &Cpu, constant: Option<(ConstantId, Form)>, count: usize, len: usize, pack: P) -> Self {
        let all = constant.map(|(id, form)| {
            cpu.packed.get(id, form, count * len, |bytes| {
                for (i, out) in bytes.chunks_exact_mut(len.max(1)).enumerate() {
                    pack(cpu.threads(), i, out);
                }
            })
        });
        let len = all.as_ref().map_or(len, |all| all.len() / count.max(1));
        Operands { all, len, pack }
    }

    /// Whether they are a constant's.
    pub(crate) fn are_constant(&self) -> bool {
        self.all.is_some()
    }

    /// Operand `i`.
    pub(crate) fn get(&self, cx: Context<'_>, i: usize) -> Packed {
        match &self.all {
            Some(all) => Packed::Cached { all: all.clone(), at: i * self.len, len: self.len },
            None => {
                let mut room = cx.scratch.take(self.len);
                (self.pack)(cx.threads, i, room.as_mut_slice());
                Packed::Scratch(room)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_once_for_each_form() {
        let cache = PackCache::default();
        let form = Form::Columns { matrices: 1, k: 2, n: 3, transposed: false };
        let first = cache.get(ConstantId(1), form, 100, |b| b[99] = 7);
        let again = cache.get(ConstantId(1), form, 100, |_| unreachable!());
        assert!(Arc::ptr_eq(&first, &again) && again.as_slice()[99] == 7);
        let memory = AlignedBytes::zeroed(128).holding(64).unwrap();
        let place = memory.as_slice().as_ptr();
        drop((first, again));
        cache.settle(ConstantId(1), memory);
        let settled = cache.get(ConstantId(1), form, 100, |_| unreachable!());
        assert!(settled.as_slice().as_ptr() == place && settled.len() == 100 && settled.as_slice()[99] == 7);
        cache.settle(ConstantId(1), AlignedBytes::zeroed(200));
        cache.settle(ConstantId(3), AlignedBytes::zeroed(200));
        assert_eq!(settled.as_slice().as_ptr(), place, "what is in use stays");
        drop(settled);
        cache.settle(ConstantId(1), AlignedBytes::zeroed(64));
        assert_eq!(cache.get(ConstantId(1), form, 100, |_| unreachable!()).as_slice().as_ptr(), place, "no room");
        cache.get(ConstantId(1), Form::Rows { groups: 1, m: 2, k: 3 }, 20, |_| ());
        cache.get(ConstantId(2), form, 100, |_| ());
        assert_eq!(cache.bytes(), 220);
    }

    #[test]
    fn memory_that_a_form_left_takes_the_next_one() {
        let cache = PackCache::default();
        let form = Form::Columns { matrices: 1, k: 2, n: 3, transposed: false };
        let pack = |id, len| {
            let packed = cache.get(ConstantId(id), form, len, |bytes| {
                assert!(bytes.iter().all(|&byte| byte == 0) && bytes.len() == len);
                bytes.fill(7);
            });
            let place = packed.as_slice().as_ptr();
            drop(packed);
            cache.settle(ConstantId(id), AlignedBytes::zeroed(len));
            place
        };
        cache.expect(true);
        let first = pack(1, 6400);
        assert_ne!(pack(2, 3200), first, "far shorter");
        assert_eq!(pack(3, 6350), first);
        cache.expect(false);
        pack(4, 6400);
        assert!(cache.spare.lock().unwrap().is_none());
    }

    #[test]
    fn elements_give_way_to_the_first_form_and_come_back_from_it() {
        let cache = PackCache::default();
        let id = ConstantId(5);
        assert!(cache.elements(id, |_, _| unreachable!()).is_none());
        let elements = AlignedBytes::zeroed(200).holding(100).unwrap();
        let place = elements.as_slice().as_ptr();
        cache.keep(id, elements);
        let rows = Form::Rows { groups: 1, m: 5, k: 5 };
        let packed = cache.get(id, rows, 140, |out| {
            let elements = cache.elements(id, |_, _| unreachable!()).unwrap();
            out[0] = elements.len() as u8;
        });
        assert!(packed.as_slice()[0] == 100 && packed.as_slice().as_ptr() == place);
        assert_eq!(cache.bytes(), 140);
        let unpack = |form, bytes: &[u8]| {
            assert!(form == rows && bytes.len() == 140);
            AlignedBytes::zeroed(100)
        };
        assert_eq!(cache.elements(id, unpack).unwrap().len(), 100);
        // Kept twice, as by a second graph that has the constant too.
        cache.keep(id, AlignedBytes::zeroed(100));
        assert_eq!(cache.bytes(), 140);
    }
}
