//! Device memory that is handed out again.
//!
//! A buffer goes back to the pool when its last owner drops it, even while commands that use it still wait to run: all
//! work goes through one queue in order, so a later command that writes the buffer runs after the earlier ones that
//! read it. The one exception is data written by the queue itself, which runs before commands that are not submitted
//! yet; uploads therefore flush first.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::device::{Caps, lock};
use super::tensor::GpuTensor;
use crate::error::KernelError;

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Held from the driver: in use or waiting in the pool.
    pub allocated: u64,
    /// In use.
    pub in_use: u64,
    /// The most that was in use at one time.
    pub peak: u64,
}

/// A buffer on the device; dropping it returns it to its pool.
pub struct PooledBuffer {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) size: u64,
    /// The same each time this memory is handed out, and never given to other memory.
    pub(crate) id: u64,
    /// Whether to keep the buffer for others when it is dropped.
    recycled: bool,
    pool: Arc<PoolShared>,
    /// Tensors computed once from this one (packed weights, column sums), by name; they live as long as it does.
    pub(crate) derived: Mutex<HashMap<&'static str, GpuTensor>>,
}

impl std::fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PooledBuffer({}, {} bytes)", self.id, self.size)
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut state = lock(&self.pool.state);
        state.stats.in_use -= self.size;
        if self.recycled {
            state.free.entry(self.size).or_default().push((self.buffer.clone(), self.id));
        } else {
            state.stats.allocated -= self.size;
            self.pool.retired.fetch_add(1, Ordering::Relaxed);
            // Commands that wait to be submitted keep the driver's memory alive by themselves.
        }
    }
}

struct PoolShared {
    state: Mutex<PoolState>,
    next_id: AtomicU64,
    /// Buffers given back to the driver.
    retired: AtomicU64,
}

#[derive(Default)]
struct PoolState {
    /// By size.
    free: BTreeMap<u64, Vec<(wgpu::Buffer, u64)>>,
    stats: PoolStats,
}

pub(crate) struct Pool {
    device: wgpu::Device,
    max_size: u64,
    shared: Arc<PoolShared>,
}

/// The size of the buffer that serves `bytes`: up to a quarter more, so that near sizes share.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (1u64 << bytes.ilog2()) / 4;
    bytes.next_multiple_of(step)
}

impl Pool {
    pub(crate) fn new(device: &wgpu::Device, caps: &Caps) -> Self {
        let shared = PoolShared { state: Mutex::default(), next_id: AtomicU64::new(0), retired: AtomicU64::new(0) };
        let max_size = caps.max_buffer_size.min(caps.max_storage_buffer_binding_size);
        #[allow(clippy::arc_with_non_send_sync)] // In browsers wgpu's handles stay on one thread.
        Pool { device: device.clone(), max_size, shared: Arc::new(shared) }
    }

    /// A buffer of at least `bytes` whose content is unspecified.
    pub(crate) fn take(&self, bytes: u64) -> Result<PooledBuffer, KernelError> {
        // The rounded size may pass the limit where the exact one does not.
        let class = Some(size_class(bytes)).filter(|&c| c <= self.max_size);
        let size = class.unwrap_or(bytes.next_multiple_of(16));
        let free = lock(&self.shared.state).free.get_mut(&size).and_then(Vec::pop);
        match free {
            Some((buffer, id)) => Ok(self.wrap(buffer, id, size, true)),
            None => self.create(size, true),
        }
    }

    /// A buffer of `bytes` that goes back to the driver when dropped: for weights, which no other tensor fits.
    pub(crate) fn take_exact(&self, bytes: u64) -> Result<PooledBuffer, KernelError> {
        self.create(bytes.max(16).next_multiple_of(16), false)
    }

    fn create(&self, size: u64, recycled: bool) -> Result<PooledBuffer, KernelError> {
        if size > self.max_size {
            let limit = self.max_size;
            return Err(KernelError::Device(format!(
                "a buffer of {size} bytes is over this device's limit of {limit}"
            )));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        lock(&self.shared.state).stats.allocated += size;
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        Ok(self.wrap(buffer, id, size, recycled))
    }

    fn wrap(&self, buffer: wgpu::Buffer, id: u64, size: u64, recycled: bool) -> PooledBuffer {
        let mut state = lock(&self.shared.state);
        state.stats.in_use += size;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        drop(state);
        PooledBuffer { buffer, size, id, recycled, pool: self.shared.clone(), derived: Mutex::default() }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        lock(&self.shared.state).stats
    }

    pub(crate) fn clear(&self) {
        let mut state = lock(&self.shared.state);
        let free = std::mem::take(&mut state.free);
        let bytes: u64 = free.iter().map(|(size, buffers)| size * buffers.len() as u64).sum();
        state.stats.allocated -= bytes;
        self.shared.retired.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes whenever memory went back to the driver: what remembers buffers must then forget them.
    pub(crate) fn retired(&self) -> u64 {
        self.shared.retired.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::gpu;

    #[test]
    fn classes_waste_at_most_a_quarter() {
        for bytes in [1u64, 255, 256, 257, 1000, 4096, 5000, 1 << 20, (1 << 20) + 1, 3 << 25] {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(64), "{bytes} {class}");
            assert!(bytes <= 256 || class * 4 <= bytes * 5, "{bytes} {class}");
        }
    }

    #[test]
    fn buffers_return_and_are_counted() {
        let Some(gpu) = gpu() else { return };
        let pool = &gpu.shared.pool;
        let before = pool.stats();
        let a = pool.take(1000).unwrap();
        let size = a.size;
        assert_eq!(pool.stats().in_use, before.in_use + size);
        drop(a);
        assert_eq!(pool.stats().in_use, before.in_use);
        let _b = pool.take(1001).unwrap();
        assert_eq!(pool.stats().allocated, before.allocated + size);
        drop(_b);
        pool.clear();
        assert_eq!(pool.stats().allocated, before.allocated);
        assert!(matches!(pool.take(u64::MAX / 4), Err(KernelError::Device(_))));
    }
}
