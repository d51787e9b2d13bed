//! How tensors lie on the device, and the way there and back.
//!
//! Always contiguous and row-major. `f32` and `i32` as they are; `i64` narrowed to 32 bits with saturation (token ids,
//! indices and axes fit; the ONNX idiom of "a huge end" still means the end) and widened on the way back; `bool` one
//! 32-bit word an element, 0 or 1; `u8` and `i8` four to a word and `f16` two to a word, the last word padded.

use std::sync::Arc;

use super::device::{Gpu, lock};
use super::pool::PooledBuffer;
use crate::error::KernelError;
use crate::tensor::{AlignedBytes, Bool, DType, Tensor, TensorView, element_count};

/// Integers of up to so many elements keep a copy on the host: the shapes, axes and bounds that some operators need
/// before they can be encoded.
const HOST_COPY_ELEMENTS: usize = 256;

/// A tensor on the device. Clones share the memory.
#[derive(Clone, Debug)]
pub struct GpuTensor {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) buffer: Arc<PooledBuffer>,
    /// The elements on the host, where an upload kept them.
    pub(crate) host: Option<Tensor>,
    /// The tensor never changes, so that what is derived from it may be kept.
    pub(crate) constant: bool,
}

/// Bytes that `elements` of `dtype` take on the device.
pub fn device_bytes(dtype: DType, elements: usize) -> u64 {
    let elements = elements as u64;
    match dtype {
        DType::F32 | DType::I32 | DType::I64 | DType::Bool => elements * 4,
        DType::F16 => elements.div_ceil(2) * 4,
        DType::U8 | DType::I8 => elements.div_ceil(4) * 4,
    }
}

impl GpuTensor {
    /// The element type, as the graph sees it.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same memory under another shape with as many elements.
    pub fn reshaped(&self, shape: &[usize]) -> Result<GpuTensor, KernelError> {
        if element_count(shape)? != self.len() {
            let message = format!("a tensor of shape {:?} cannot be viewed as {shape:?}", self.shape);
            return Err(KernelError::Invalid(message));
        }
        let host = self.host.as_ref().map(|t| t.reshaped(shape)).transpose()?;
        Ok(GpuTensor { shape: shape.to_vec(), host, ..self.clone() })
    }

    /// Whether a clone holds the same memory.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.buffer) > 1
    }

    /// The integers that the host knows of this tensor, if it does.
    pub fn host_i64(&self) -> Option<Vec<i64>> {
        self.host.as_ref().and_then(Tensor::to_i64_vec)
    }

    /// What `make` computes from this constant, computed once and kept as long as the constant. Of anything but a
    /// constant it is computed each time.
    pub(crate) fn derived(
        &self,
        name: &'static str,
        make: impl FnOnce() -> Result<GpuTensor, KernelError>,
    ) -> Result<GpuTensor, KernelError> {
        if !self.constant {
            return make();
        }
        if let Some(tensor) = lock(&self.buffer.derived).get(name) {
            return Ok(tensor.clone());
        }
        let tensor = make()?;
        lock(&self.buffer.derived).insert(name, tensor.clone());
        Ok(tensor)
    }
}

impl Gpu {
    /// A tensor whose content is unspecified.
    pub fn alloc(&self, dtype: DType, shape: &[usize]) -> Result<GpuTensor, KernelError> {
        self.check()?;
        let bytes = device_bytes(dtype, element_count(shape)?);
        #[allow(clippy::arc_with_non_send_sync)] // In browsers wgpu's handles stay on one thread.
        let buffer = Arc::new(self.shared.pool.take(bytes)?);
        Ok(GpuTensor { dtype, shape: shape.to_vec(), buffer, host: None, constant: false })
    }

    /// Copies a tensor to the device. A constant's memory is allocated exactly and never recycled.
    pub fn upload(&self, view: TensorView<'_>) -> Result<GpuTensor, KernelError> {
        self.check()?;
        let elements = element_count(view.shape)?;
        let bytes = device_bytes(view.dtype, elements);
        let constant = view.constant.is_some();
        let pool = &self.shared.pool;
        let buffer = if constant { pool.take_exact(bytes)? } else { pool.take(bytes)? };
        if !constant {
            // A recycled buffer may still be read by commands that wait; what the queue writes would overtake them.
            self.flush()?;
        }
        if elements > 0 {
            let write = |data: &[u8]| self.shared.queue.write_buffer(&buffer.buffer, 0, data);
            match view.dtype {
                DType::F32 | DType::I32 => write(view.bytes),
                DType::I64 => {
                    let narrow = |&x: &i64| x.clamp(i32::MIN as i64, i32::MAX as i64) as i32;
                    let words: Vec<i32> = view.as_slice::<i64>()?.iter().map(narrow).collect();
                    write(bytemuck::cast_slice(&words));
                }
                DType::Bool => {
                    let words: Vec<u32> = view.as_slice::<Bool>()?.iter().map(|b| (b.0 != 0) as u32).collect();
                    write(bytemuck::cast_slice(&words));
                }
                DType::F16 | DType::U8 | DType::I8 => {
                    let whole = view.bytes.len() / 4 * 4;
                    if whole > 0 {
                        write(&view.bytes[..whole]);
                    }
                    if whole < view.bytes.len() {
                        let mut last = [0u8; 4];
                        last[..view.bytes.len() - whole].copy_from_slice(&view.bytes[whole..]);
                        self.shared.queue.write_buffer(&buffer.buffer, whole as u64, &last);
                    }
                }
            }
            if bytes > 4 << 20 {
                // The queue's staging copy is freed only after a submission; without one, loading would double memory.
                self.shared.queue.submit([]);
            }
        }
        let keep = elements <= HOST_COPY_ELEMENTS && !matches!(view.dtype, DType::F16);
        let host = if keep { Some(Tensor::from_bytes(view.dtype, view.shape, view.bytes)?) } else { None };
        #[allow(clippy::arc_with_non_send_sync)] // In browsers wgpu's handles stay on one thread.
        let buffer = Arc::new(buffer);
        Ok(GpuTensor { dtype: view.dtype, shape: view.shape.to_vec(), buffer, host, constant })
    }

    /// Runs what was recorded and copies a tensor back. Natively this blocks until the device is done.
    pub async fn download(&self, tensor: &GpuTensor) -> Result<Tensor, KernelError> {
        let mut parts = self.download_all(std::slice::from_ref(tensor)).await?;
        parts.pop().ok_or_else(|| KernelError::Device("nothing came back".into()))
    }

    /// Submits what was recorded, and behind it copies into buffers that the host can map; none for an empty tensor.
    fn stage(&self, tensors: &[GpuTensor]) -> (Vec<Option<wgpu::Buffer>>, Option<wgpu::SubmissionIndex>) {
        let mut staging = Vec::with_capacity(tensors.len());
        let mut recorder = lock(&self.shared.recorder);
        for tensor in tensors {
            let size = device_bytes(tensor.dtype, tensor.len());
            if size == 0 {
                staging.push(None);
                continue;
            }
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            let copy = self.shared.device.create_buffer(&descriptor);
            recorder.copy(&self.shared.device, &tensor.buffer.buffer, &copy, size);
            staging.push(Some(copy));
        }
        (staging, recorder.submit(&self.shared.queue))
    }

    /// Copies several tensors back in one wait.
    pub async fn download_all(&self, tensors: &[GpuTensor]) -> Result<Vec<Tensor>, KernelError> {
        self.finish_read(self.begin_read(tensors.to_vec())?).await
    }

    /// Submits what was recorded, and a copy of `tensors` as they are then. More may be recorded before
    /// [`Gpu::finish_read`] waits for them.
    pub(crate) fn begin_read(&self, tensors: Vec<GpuTensor>) -> Result<Readback, KernelError> {
        self.check()?;
        let (staging, submission) = self.stage(&tensors);
        let mut waits = Vec::new();
        for copy in staging.iter().flatten() {
            let (send, receive) = futures_channel::oneshot::channel();
            copy.map_async(wgpu::MapMode::Read, .., move |result| {
                // The receiver is gone only if the caller gave up.
                let _ = send.send(result);
            });
            waits.push(receive);
        }
        Ok(Readback { tensors, staging, waits, submission })
    }

    /// Waits for what [`Gpu::begin_read`] asked for, and for nothing that was submitted later.
    pub(crate) async fn finish_read(&self, read: Readback) -> Result<Vec<Tensor>, KernelError> {
        // Natively callbacks run inside poll; in browsers this does nothing and the event loop runs them.
        let wait = wgpu::PollType::Wait { submission_index: read.submission, timeout: None };
        if let Err(e) = self.shared.device.poll(wait) {
            self.check()?;
            return Err(KernelError::Device(e.to_string()));
        }
        for wait in read.waits {
            if !matches!(wait.await, Ok(Ok(()))) {
                self.check()?;
                return Err(KernelError::Device("a result could not be read back".into()));
            }
        }
        self.check()?;
        read.tensors.iter().zip(&read.staging).map(|(tensor, copy)| read_back(tensor, copy.as_ref())).collect()
    }
}

/// Tensors on their way back to the host.
pub(crate) struct Readback {
    tensors: Vec<GpuTensor>,
    staging: Vec<Option<wgpu::Buffer>>,
    waits: Vec<futures_channel::oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>>,
    submission: Option<wgpu::SubmissionIndex>,
}

/// The host's form of what lies in a mapped buffer.
fn read_back(tensor: &GpuTensor, copy: Option<&wgpu::Buffer>) -> Result<Tensor, KernelError> {
    let elements = tensor.len();
    let mut data = AlignedBytes::zeroed(elements * tensor.dtype.size());
    if let Some(copy) = copy {
        let mapped = copy.get_mapped_range(..).map_err(|e| KernelError::Device(e.to_string()))?;
        let bytes: &[u8] = &mapped;
        let out = data.as_mut_slice();
        match tensor.dtype {
            DType::I64 => {
                for (o, w) in out.chunks_exact_mut(8).zip(bytes.chunks_exact(4)) {
                    let word = i32::from_le_bytes([w[0], w[1], w[2], w[3]]);
                    o.copy_from_slice(&(word as i64).to_le_bytes());
                }
            }
            DType::Bool => {
                for (o, w) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *o = (w != [0; 4]) as u8;
                }
            }
            _ => {
                let len = out.len();
                out.copy_from_slice(&bytes[..len]);
            }
        }
        drop(mapped);
        copy.unmap();
    }
    Ok(Tensor::from_buffer(tensor.dtype, &tensor.shape, data)?)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::gpu::testing::gpu;

    #[test]
    fn every_type_comes_back() {
        let Some(gpu) = gpu() else { return };
        let tensors = [
            Tensor::vector(&[1f32, -2.5, f32::INFINITY]),
            Tensor::vector(&[7i32, -8]),
            Tensor::vector(&[7i64, -8, 1 << 20]),
            Tensor::vector(&[Bool(1), Bool(0), Bool(1)]),
            Tensor::vector(&[1u8, 2, 3, 4, 255]),
            Tensor::vector(&[-1i8, 2, -128]),
            Tensor::vector(&[f16::ONE, f16::EPSILON, f16::MIN]),
            Tensor::from_slice::<f32>(&[3, 0, 2], &[]).unwrap(),
        ];
        for t in &tensors {
            let back = pollster::block_on(gpu.download(&gpu.upload(t.view()).unwrap())).unwrap();
            assert_eq!((back.dtype(), back.shape(), back.bytes()), (t.dtype(), t.shape(), t.bytes()));
        }
    }

    #[test]
    fn i64_saturates() {
        let Some(gpu) = gpu() else { return };
        let up = gpu.upload(Tensor::vector(&[i64::MAX, i64::MIN]).view()).unwrap();
        assert_eq!(up.host_i64(), Some(vec![i64::MAX, i64::MIN]));
        let back = pollster::block_on(gpu.download(&up)).unwrap();
        assert_eq!(back.as_slice::<i64>().unwrap(), [i32::MAX as i64, i32::MIN as i64]);
    }

    #[test]
    fn reshaping_shares_the_buffer() {
        let Some(gpu) = gpu() else { return };
        let t = gpu.upload(Tensor::vector(&[1i32, 2, 3, 4]).view()).unwrap();
        let r = t.reshaped(&[2, 2]).unwrap();
        assert_eq!(r.buffer.id, t.buffer.id);
        assert!(t.reshaped(&[3]).is_err());
    }
}
