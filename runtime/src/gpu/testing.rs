//! What the families' tests share.

use wgpu::naga;

use super::{Caps, Gpu, GpuOptions, PipelineKey};
use crate::graph::Op;
use crate::tensor::{DType, Tensor};

/// A device of this test's own, or `None` (said aloud) on a machine without one.
pub(crate) fn gpu() -> Option<Gpu> {
    open(GpuOptions::default())
}

/// The same without optional features.
pub(crate) fn plain_gpu() -> Option<Gpu> {
    open(GpuOptions { plain: true, ..Default::default() })
}

fn open(options: GpuOptions) -> Option<Gpu> {
    match pollster::block_on(Gpu::new(&options)) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

/// Runs one operator on the device, and demands that it is supported.
pub(crate) fn run(gpu: &Gpu, op: &Op, inputs: &[Option<Tensor>], outputs: &[(DType, &[usize])]) -> Vec<Tensor> {
    let facts: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| (t.dtype(), t.shape()))).collect();
    assert!(gpu.supports(op, &facts, outputs), "{} is not supported for {facts:?} -> {outputs:?}", op.name());
    let inputs: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|t| gpu.upload(t.view()).unwrap())).collect();
    let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
    let outputs: Vec<_> = outputs.iter().map(|&(dtype, shape)| gpu.alloc(dtype, shape).unwrap()).collect();
    let refs: Vec<_> = outputs.iter().collect();
    gpu.record(op, &inputs, &refs).unwrap_or_else(|e| panic!("{}: {e}", op.name()));
    pollster::block_on(gpu.download_all(&outputs)).unwrap_or_else(|e| panic!("{}: {e}", op.name()))
}

/// Fails unless each element is within `rel` of its expected value or `abs` away from it.
pub(crate) fn assert_close(got: &Tensor, want: &[f32], rel: f32, abs: f32, what: impl std::fmt::Debug) {
    let got = got.to_f32_vec().expect("a float tensor");
    assert_eq!(got.len(), want.len(), "{what:?}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= abs + rel * w.abs();
        assert!(same, "{what:?}: element {i} is {g}, expected {w}");
    }
}

/// A small deterministic generator.
pub(crate) struct Lcg(pub(crate) u64);

impl Lcg {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// In -1..1.
    pub(crate) fn f32(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }

    /// In 0..n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// `n` numbers in -1..1.
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

/// Parses and validates a pipeline's WGSL for a device with `caps`, its constants filled in.
pub(crate) fn validate(key: &PipelineKey, caps: &Caps) {
    let source = key.source();
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{}: {}", key.name(), e.emit_to_string(&source)));
    let mut abilities = naga::valid::Capabilities::empty();
    abilities.set(naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32, caps.packed_f16);
    abilities.set(naga::valid::Capabilities::SHADER_FLOAT16, caps.f16);
    abilities.set(naga::valid::Capabilities::SUBGROUP, caps.subgroups);
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), abilities);
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}: {}", key.name(), e.emit_to_string(&source)));
    for (name, _) in key.constants() {
        let known = module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
        assert!(known, "{}: no constant {name}", key.name());
    }
    for (_, o) in module.overrides.iter() {
        let name = o.name.as_deref().unwrap_or("");
        let set = o.init.is_some() || key.constants().iter().any(|(n, _)| *n == name);
        assert!(set, "{}: constant {name} is not set", key.name());
    }
    let point = module.entry_points.iter().position(|e| e.name == "main");
    let point = point.unwrap_or_else(|| panic!("{}: no entry point main", key.name()));
    let size: u32 = module.entry_points[point].workgroup_size.iter().product();
    assert!(size <= caps.max_workgroup_invocations, "{}: {size} invocations", key.name());
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap_or_else(|e| panic!("{}: {e}", key.name()));
    let (mut memory, mut read, mut written) = (0, 0, 0);
    for (handle, variable) in module.global_variables.iter() {
        match variable.space {
            naga::AddressSpace::WorkGroup if !info.get_entry_point(point)[handle].is_empty() => {
                memory += layouter[variable.ty].size;
            }
            naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => written += 1,
            naga::AddressSpace::Storage { .. } => read += 1,
            _ => {}
        }
    }
    assert!(memory <= caps.max_workgroup_storage, "{}: {memory} bytes of workgroup memory", key.name());
    assert_eq!((read, written), (key.shader().inputs, key.shader().outputs), "{}: buffers", key.name());
}
