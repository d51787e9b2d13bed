//! What a decoder keeps between calls: keys and values, on the device that computes with them, growing in place.
//!
//! A graph reads a cache as an input (`past`) and makes it anew, longer, as an output (`present`). Where one attention
//! joins the two and nothing else reads them, the executor lets it write the new rows into the memory of the old ones.
//! Any other graph is served too: its cache is handed in and taken out as ordinary tensors.

use std::collections::HashMap;

use super::Concrete;
use super::device::{Gpu, GpuTensor};
use super::execute::Held;
use crate::error::KernelError;
use crate::graph::{Graph, NodeId, Op, ValueId};
use crate::tensor::{AlignedBytes, DType, Tensor, element_count};

/// Where one graph reads and makes each cache.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// The input, by cache.
    pub(crate) past: Vec<Option<ValueId>>,
    /// The output, by cache.
    pub(crate) present: Vec<Option<ValueId>>,
    /// The attentions that grow two caches in place, of keys and of values.
    pub(crate) growing: HashMap<NodeId, [usize; 2]>,
}

impl Ports {
    /// Finds which caches of `graph` can grow in place. `present` are graph outputs.
    pub(crate) fn new(graph: &Graph, past: Vec<Option<ValueId>>, present: Vec<Option<ValueId>>) -> Ports {
        let readers = graph.consumers();
        let slot = |value: Option<ValueId>| past.iter().position(|p| p.is_some() && *p == value);
        // Reading a size is not reading the cache: the plan knows it.
        let sized = |id: &NodeId| graph.node(*id).is_some_and(|n| matches!(n.op, Op::Shape { .. } | Op::Size));
        let alone = |value: ValueId, times: usize| {
            let data = readers[value.0 as usize].iter().filter(|id| !sized(id)).count();
            data == times && graph.outputs.iter().filter(|o| **o == value).count() <= 1
        };
        let mut growing = HashMap::new();
        for (id, node) in graph.nodes() {
            let at = match node.op {
                Op::Attention(_) => 5,
                Op::GroupQueryAttention(_) => 3,
                _ => continue,
            };
            let (Some([past_k, past_v]), [_, Some(k), Some(v)]) =
                (node.inputs.get(at..at + 2), node.outputs.as_slice())
            else {
                continue;
            };
            let (Some(keys), Some(values)) = (slot(*past_k), slot(*past_v)) else { continue };
            let made = present[keys] == Some(*k) && present[values] == Some(*v) && alone(*k, 0) && alone(*v, 0);
            let f32s = [*k, *v].iter().all(|v| graph.fact(*v).is_some_and(|f| f.dtype == DType::F32));
            if made
                && f32s
                && keys != values
                && past_k.is_some_and(|p| alone(p, 1))
                && past_v.is_some_and(|p| alone(p, 1))
            {
                growing.insert(id, [keys, values]);
            }
        }
        Ports { past, present, growing }
    }

    /// Whether cache `slot` grows in place.
    pub(crate) fn grows(&self, slot: usize) -> bool {
        self.growing.values().flatten().any(|s| *s == slot)
    }
}

/// One cache: [batch, heads, capacity, size], of which the first rows of each head are filled.
#[derive(Clone)]
pub(crate) struct Cache {
    held: Held,
    dtype: DType,
    shape: Vec<usize>,
    /// Rows of each head that are filled.
    pub(crate) rows: usize,
}

/// The caches of one sequence of calls. Clones share memory until one of them grows.
#[derive(Clone, Default)]
pub(crate) struct Caches {
    pub(crate) slots: Vec<Cache>,
    /// Rows to make room for when a cache has to grow, so that it need not grow again.
    pub(crate) reserve: usize,
    /// Bytes of caches that were copied so far: to make room, or because a graph cannot grow them in place.
    pub(crate) copied: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { held: Held::default(), dtype: DType::F32, shape: vec![], rows: 0 }
    }
}

impl Cache {
    /// A cache as a graph made it.
    pub(crate) fn of(held: Held, dtype: DType, shape: &[usize]) -> Cache {
        Cache { held, dtype, shape: shape.to_vec(), rows: shape.get(2).copied().unwrap_or(0) }
    }

    /// Whether nothing was ever stored.
    pub(crate) fn is_new(&self) -> bool {
        self.shape.is_empty()
    }

    /// What is filled, as a graph's input sees it.
    pub(crate) fn filled(&self) -> Concrete {
        let mut shape = self.shape.clone();
        if let Some(rows) = shape.get_mut(2) {
            *rows = self.rows;
        }
        (self.dtype, shape)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// Forgets all but the first `rows` rows of each head.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
    }

    /// The filled rows, where they lie contiguous on the host.
    pub(crate) fn host(&self) -> Option<&Tensor> {
        self.held.host.as_ref().filter(|_| self.shape.get(2) == Some(&self.rows))
    }

    /// The filled rows alone, contiguous: what an ordinary input is. Counts the bytes if they have to be copied.
    pub(crate) async fn contiguous(&self, gpu: Option<&Gpu>, copied: &mut u64) -> Result<Held, KernelError> {
        if self.shape.get(2).is_none_or(|capacity| *capacity == self.rows) {
            return Ok(self.held.clone());
        }
        let shape = self.filled().1;
        *copied += self.filled_bytes();
        if let (Some(gpu), Some(device), DType::F32) = (gpu, &self.held.device, self.dtype) {
            let all = gpu.alloc(DType::F32, &shape)?;
            gpu.record_move(device, &all, self.rows)?;
            return Ok(Held { host: None, device: Some(all) });
        }
        let downloaded = match (gpu, &self.held.device) {
            (Some(gpu), Some(device)) if self.held.host.is_none() => Some(gpu.download(device).await?),
            _ => None,
        };
        let host = self.held.host.as_ref().or(downloaded.as_ref());
        let host = host.ok_or_else(|| KernelError::Invalid("a cache that lies nowhere".into()))?;
        Ok(Held { host: Some(copy_rows(host, &shape, self.rows)?), device: None })
    }

    /// The memory on the host, with room for `rows` rows of a tensor [batch, heads, _, size] and shared with nobody.
    pub(crate) async fn host_room(
        &mut self,
        gpu: Option<&Gpu>,
        present: &[usize],
        reserve: usize,
        copied: &mut u64,
    ) -> Result<&mut [u8], KernelError> {
        if let (None, Some(device), Some(gpu)) = (&self.held.host, &self.held.device, gpu) {
            self.held = Held { host: Some(gpu.download(device).await?), device: None };
        }
        self.held.device = None;
        let enough = self.held.host.is_some() && self.has_room(present);
        if !enough || self.held.host.as_mut().is_none_or(|t| t.bytes_mut().is_none()) {
            let shape = self.larger(present, if enough { self.shape[2] } else { reserve });
            let old = self.held.host.take();
            *copied += self.filled_bytes();
            let new = match old {
                Some(old) => copy_rows(&old, &shape, self.rows)?,
                None => zeros(DType::F32, &shape)?,
            };
            self.held.host = Some(new);
            self.shape = shape;
        }
        let host = self.held.host.as_mut().and_then(Tensor::bytes_mut);
        host.ok_or_else(|| KernelError::Invalid("a cache is shared while it grows".into()))
    }

    /// The memory on the device, with room for what `present` [batch, heads, rows, size] says.
    pub(crate) fn device_room(
        &mut self,
        gpu: &Gpu,
        present: &[usize],
        reserve: usize,
        copied: &mut u64,
    ) -> Result<GpuTensor, KernelError> {
        if self.held.device.is_none()
            && let Some(host) = &self.held.host
        {
            self.held.device = Some(gpu.upload(host.view())?);
        }
        self.held.host = None;
        let enough = self.held.device.is_some() && self.has_room(present);
        if !enough || self.held.device.as_ref().is_some_and(GpuTensor::is_shared) {
            let shape = self.larger(present, if enough { self.shape[2] } else { reserve });
            let new = gpu.alloc(DType::F32, &shape)?;
            if let Some(old) = &self.held.device {
                *copied += self.filled_bytes();
                gpu.record_move(old, &new, self.rows)?;
            }
            self.held.device = Some(new);
            self.shape = shape;
        }
        self.held.device.clone().ok_or_else(|| KernelError::Invalid("a cache that lies nowhere".into()))
    }

    fn filled_bytes(&self) -> u64 {
        let elements = if self.is_new() { 0 } else { self.filled().1.iter().product::<usize>() };
        (elements * self.dtype.size()) as u64
    }

    fn has_room(&self, present: &[usize]) -> bool {
        matches!((&self.shape[..], present), ([b, h, capacity, d], [pb, ph, rows, pd])
            if (b, h, d) == (pb, ph, pd) && capacity >= rows)
    }

    /// The shape with room for `reserve` rows, or for twice what is needed if that is not enough.
    fn larger(&self, present: &[usize], reserve: usize) -> Vec<usize> {
        let mut shape = present.to_vec();
        if shape[2] > reserve {
            shape[2] *= 2;
        } else {
            shape[2] = reserve;
        }
        shape
    }
}

fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, KernelError> {
    Ok(Tensor::from_buffer(dtype, shape, AlignedBytes::zeroed(element_count(shape)? * dtype.size()))?)
}

/// A cache of `shape` with the first `rows` rows of each head of `from`.
fn copy_rows(from: &Tensor, shape: &[usize], rows: usize) -> Result<Tensor, KernelError> {
    let mut to = zeros(from.dtype(), shape)?;
    let (capacity, new_capacity, size) = (from.shape()[2], shape[2], shape[3] * from.dtype().size());
    if let Some(bytes) = to.bytes_mut()
        && rows * size > 0
    {
        let planes = bytes.chunks_exact_mut(new_capacity * size).zip(from.bytes().chunks_exact(capacity * size));
        planes.for_each(|(to, from)| to[..rows * size].copy_from_slice(&from[..rows * size]));
    }
    Ok(to)
}

impl Caches {
    /// The caches of the rows of the batch that `rows` lists, in that order, as beam search asks for.
    pub(crate) async fn select(&mut self, gpu: Option<&Gpu>, rows: &[usize]) -> Result<(), KernelError> {
        for slot in self.slots.iter_mut().filter(|s| !s.is_new()) {
            let mut shape = slot.shape.clone();
            shape[0] = rows.len();
            if let (Some(gpu), Some(device)) = (gpu, &slot.held.device) {
                let ids: Vec<i64> = rows.iter().map(|&r| r as i64).collect();
                let ids = gpu.upload(Tensor::vector(&ids).view())?;
                let new = gpu.alloc(slot.dtype, &shape)?;
                gpu.record(&Op::Gather { axis: 0 }, &[Some(device), Some(&ids)], &[&new])?;
                slot.held = Held { host: None, device: Some(new) };
            } else if let Some(host) = &slot.held.host {
                let mut new = zeros(slot.dtype, &shape)?;
                let plane = host.bytes().len() / slot.shape[0].max(1);
                if let Some(bytes) = new.bytes_mut()
                    && plane > 0
                {
                    for (to, &row) in bytes.chunks_exact_mut(plane).zip(rows) {
                        to.copy_from_slice(&host.bytes()[row * plane..][..plane]);
                    }
                }
                slot.held = Held { host: Some(new), device: None };
            }
            slot.shape = shape;
            self.copied += slot.bytes() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor::from_slice(shape, &(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    fn host(t: Tensor) -> Held {
        Held { host: Some(t), device: None }
    }

    #[test]
    fn rows_stay_when_room_is_made_and_come_back_contiguous() {
        let mut cache = Cache::of(host(floats(&[1, 2, 3, 2])), DType::F32, &[1, 2, 3, 2]);
        let mut copied = 0;
        let room = pollster::block_on(cache.host_room(None, &[1, 2, 4, 2], 10, &mut copied)).unwrap().len();
        assert_eq!((room, copied, cache.bytes()), (2 * 10 * 2 * 4, 12 * 4, 160));
        pollster::block_on(cache.host_room(None, &[1, 2, 10, 2], 10, &mut copied)).unwrap();
        assert_eq!(copied, 12 * 4, "there is room: nothing moves");
        let back = pollster::block_on(cache.contiguous(None, &mut copied)).unwrap().host.unwrap();
        assert_eq!(back.as_slice::<f32>().unwrap(), floats(&[12]).as_slice::<f32>().unwrap());
        cache.truncate(1);
        let back = pollster::block_on(cache.contiguous(None, &mut copied)).unwrap().host.unwrap();
        assert_eq!(back.as_slice::<f32>().unwrap(), [0.0, 1.0, 6.0, 7.0]);
    }

    #[test]
    fn a_clone_keeps_its_rows_when_the_original_is_written() {
        let mut cache = Cache::of(host(floats(&[1, 1, 2, 2])), DType::F32, &[1, 1, 2, 2]);
        let before = cache.clone();
        let mut copied = 0;
        pollster::block_on(cache.host_room(None, &[1, 1, 2, 2], 2, &mut copied)).unwrap().fill(0);
        let kept = pollster::block_on(before.contiguous(None, &mut copied)).unwrap().host.unwrap();
        assert_eq!(kept.as_slice::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(copied, 16);
    }

    #[test]
    fn rows_of_the_batch_are_picked() {
        let slot = Cache::of(host(floats(&[3, 1, 1, 2])), DType::F32, &[3, 1, 1, 2]);
        let mut caches = Caches { slots: vec![slot, Cache::default()], ..Caches::default() };
        pollster::block_on(caches.select(None, &[2, 2, 0, 1])).unwrap();
        let got = pollster::block_on(caches.slots[0].contiguous(None, &mut 0)).unwrap().host.unwrap();
        assert_eq!(got.as_slice::<f32>().unwrap(), [4.0, 5.0, 4.0, 5.0, 0.0, 1.0, 2.0, 3.0]);
        assert_eq!(caches.slots[0].filled().1, [4, 1, 1, 2]);
    }
}
