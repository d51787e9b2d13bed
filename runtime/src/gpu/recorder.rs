//! Dispatches gathered into command buffers.
//!
//! One compute pass stays open over many dispatches. Their parameter blocks gather in one host buffer that the queue
//! writes just before the submission, so one uniform buffer serves for ever. Since the pool hands out the same buffers in
//! each run of a model, bind groups are remembered: making one costs more than the rest of a dispatch, above all in
//! browsers.

use std::collections::HashMap;

use super::device::{Caps, Gpu, lock};
use super::pipeline::{PARAMS_BYTES, PipelineKey};
use super::tensor::GpuTensor;
use crate::error::KernelError;

/// Submit after so many dispatches: often enough that the device starts early, seldom enough that submissions cost
/// little.
const DISPATCHES_PER_SUBMIT: usize = 64;

/// Bind groups remembered before all are forgotten: several models' worth.
const MAX_BIND_GROUPS: usize = 8192;

/// One kernel launch.
pub(crate) struct Dispatch<'a> {
    /// The pipeline.
    pub(crate) key: PipelineKey,
    /// The `Params` block.
    pub(crate) params: &'a [u8],
    /// Read-only buffers; `None` binds zeros.
    pub(crate) inputs: &'a [Option<&'a GpuTensor>],
    /// Written buffers, all different and none of them an input; `None` binds memory that nobody reads.
    pub(crate) outputs: &'a [Option<&'a GpuTensor>],
    /// Workgroups along x, y and z.
    pub(crate) groups: [u32; 3],
}

/// A grid of at least `groups` workgroups within the device's limit for a dimension: x first, then rows of x along y.
/// Shaders number them with `linear_group` and ignore the numbers behind the last.
pub fn grid(groups: u64, caps: &Caps) -> [u32; 3] {
    let max = caps.max_workgroups_per_dimension as u64;
    if groups <= max {
        return [groups.max(1) as u32, 1, 1];
    }
    let rows = groups.div_ceil(max);
    // Even rows waste fewer workgroups than full ones.
    let x = groups.div_ceil(rows);
    [x as u32, rows.min(u32::MAX as u64) as u32, 1]
}

/// A grid for `items` invocations in workgroups of `size`.
pub fn grid_for(items: u64, size: u32, caps: &Caps) -> [u32; 3] {
    grid(items.div_ceil(size as u64), caps)
}

pub(crate) struct Recorder {
    // The pass must end before its encoder: fields drop in order.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    dispatches: usize,
    params: Vec<u8>,
    params_buffer: wgpu::Buffer,
    alignment: usize,
    /// By the layout (inputs, outputs) and the buffers' ids.
    groups: HashMap<(u32, u32, Vec<u64>), wgpu::BindGroup>,
    /// [`super::pool::Pool::retired`] when `groups` was last emptied.
    retired: u64,
    /// Dispatches over the device's life.
    pub(crate) total: u64,
}

impl Recorder {
    pub(crate) fn new(device: &wgpu::Device, caps: &Caps) -> Self {
        let alignment = (caps.uniform_alignment.max(16)) as usize;
        let block = (PARAMS_BYTES as usize).next_multiple_of(alignment);
        let params_buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (block * (DISPATCHES_PER_SUBMIT + 1)) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Recorder {
            pass: None,
            encoder: None,
            dispatches: 0,
            params: Vec::new(),
            params_buffer,
            alignment,
            groups: HashMap::new(),
            retired: 0,
            total: 0,
        }
    }

    fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()))
    }

    fn push(
        &mut self,
        device: &wgpu::Device,
        pipeline: &wgpu::ComputePipeline,
        group: &wgpu::BindGroup,
        params: &[u8],
        groups: [u32; 3],
    ) {
        let offset = self.params.len();
        self.params.extend_from_slice(params);
        self.params.resize(self.params.len().next_multiple_of(self.alignment), 0);
        if self.pass.is_none() {
            let pass = self.encoder(device).begin_compute_pass(&Default::default()).forget_lifetime();
            self.pass = Some(pass);
        }
        if let Some(pass) = &mut self.pass {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, group, &[offset as u32]);
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
        self.dispatches += 1;
        self.total += 1;
    }

    /// Records a copy of the first `size` bytes.
    pub(crate) fn copy(&mut self, device: &wgpu::Device, from: &wgpu::Buffer, to: &wgpu::Buffer, size: u64) {
        self.pass = None;
        self.encoder(device).copy_buffer_to_buffer(from, 0, to, 0, size);
    }

    /// Forgets bind groups, which keep buffers alive.
    pub(crate) fn forget(&mut self) {
        self.groups.clear();
    }

    /// Hands everything recorded to the device. Returns what to wait for, if anything was recorded.
    pub(crate) fn submit(&mut self, queue: &wgpu::Queue) -> Option<wgpu::SubmissionIndex> {
        self.pass = None;
        self.dispatches = 0;
        let encoder = self.encoder.take()?;
        if !self.params.is_empty() {
            queue.write_buffer(&self.params_buffer, 0, &self.params);
            self.params.clear();
        }
        Some(queue.submit([encoder.finish()]))
    }
}

impl Gpu {
    /// Records one kernel launch.
    pub(crate) fn dispatch(&self, d: Dispatch<'_>) -> Result<(), KernelError> {
        self.check()?;
        let shader = d.key.shader();
        let misfit = |what: &str| Err(KernelError::Invalid(format!("shader {}: {what}", shader.name)));
        if d.inputs.len() != shader.inputs as usize || d.outputs.len() != shader.outputs as usize {
            return misfit("wrong number of buffers");
        }
        if d.params.is_empty() || d.params.len() as u64 > PARAMS_BYTES {
            return misfit("parameter block of a wrong size");
        }
        let max = self.shared.caps.max_workgroups_per_dimension;
        if d.groups.iter().any(|&g| g > max) {
            return misfit("the grid is over the device's limit");
        }
        if d.groups.contains(&0) {
            return Ok(());
        }
        let device = &self.shared.device;
        let pipeline = self.shared.pipelines.get(device, &d.key);
        let mut sinks = self.shared.sinks.iter();
        let inputs = d.inputs.iter().map(|t| Some(t.map_or(&self.shared.zeros, |t| &t.buffer)));
        let outputs = d.outputs.iter().map(|t| t.map(|t| &t.buffer).or_else(|| sinks.next()));
        let Some(buffers) = inputs.chain(outputs).collect::<Option<Vec<_>>>() else {
            return misfit("more absent outputs than there is memory for");
        };
        let mut recorder = lock(&self.shared.recorder);
        let retired = self.shared.pool.retired();
        if recorder.retired != retired || recorder.groups.len() >= MAX_BIND_GROUPS {
            // A remembered group would keep memory alive that was given back.
            recorder.groups.clear();
            recorder.retired = retired;
        }
        let ids = (shader.inputs, shader.outputs, buffers.iter().map(|b| b.id).collect::<Vec<_>>());
        let known = recorder.groups.get(&ids).cloned();
        let group =
            known.unwrap_or_else(|| {
                let params = wgpu::BufferBinding {
                    buffer: &recorder.params_buffer,
                    offset: 0,
                    size: wgpu::BufferSize::new(PARAMS_BYTES),
                };
                let mut entries =
                    vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
                entries.extend(buffers.iter().enumerate().map(|(i, b)| wgpu::BindGroupEntry {
                    binding: i as u32 + 1,
                    resource: b.buffer.as_entire_binding(),
                }));
                let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &pipeline.bindings,
                    entries: &entries,
                });
                recorder.groups.insert(ids, group.clone());
                group
            });
        recorder.push(device, &pipeline.pipeline, &group, d.params, d.groups);
        if recorder.dispatches >= DISPATCHES_PER_SUBMIT {
            recorder.submit(&self.shared.queue);
        }
        Ok(())
    }

    /// Hands everything recorded so far to the device, without waiting for it.
    pub fn flush(&self) -> Result<(), KernelError> {
        lock(&self.shared.recorder).submit(&self.shared.queue);
        self.check()
    }

    /// Kernel launches so far.
    pub fn dispatch_count(&self) -> u64 {
        lock(&self.shared.recorder).total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_and_respect_the_limit() {
        let caps = Caps::minimal();
        for n in [0u64, 1, 65535, 65536, 65537, 1_000_000, u32::MAX as u64] {
            let [x, y, z] = grid(n, &caps);
            assert!(x as u64 * y as u64 * z as u64 >= n.max(1));
            assert!(x <= 65535 && (y <= 65535 || n > 65535 * 65535));
            assert!((x as u64 - 1) * (y as u64) < n.max(1) || y == 1);
        }
        assert_eq!(grid_for(257, 256, &caps), [2, 1, 1]);
    }
}
