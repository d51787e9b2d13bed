//! Shaders as parts of text, and the pipelines made of them.
//!
//! Composition is concatenation and nothing more: a key lists [`Snippet`]s (an `alias T = f32;`, a shared function), which
//! come before the shader's own text. What differs in numbers or branches is a pipeline-overridable constant. Two
//! snippets or shaders of one name must have one text; a test holds all variants to it and validates each with naga.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;

use super::device::{Gpu, lock};
use crate::error::KernelError;

/// Text that goes before a shader.
#[derive(Debug)]
pub struct Snippet {
    /// Unique over the crate.
    pub name: &'static str,
    /// WGSL.
    pub text: &'static str,
}

/// One `.wgsl` file with entry point `main`.
#[derive(Debug)]
pub struct Shader {
    /// Unique over the crate.
    pub name: &'static str,
    /// Read-only storage buffers, at bindings 1 and on.
    pub inputs: u32,
    /// Read-write storage buffers, behind the inputs.
    pub outputs: u32,
    /// WGSL.
    pub text: &'static str,
}

/// Element types of kernels that are written once for several.
pub mod types {
    use super::Snippet;

    /// `T` is f32.
    pub static F32: Snippet = Snippet { name: "T=f32", text: "alias T = f32;\n" };
    /// `T` is i32.
    pub static I32: Snippet = Snippet { name: "T=i32", text: "alias T = i32;\n" };
    /// `T` is u32.
    pub static U32: Snippet = Snippet { name: "T=u32", text: "alias T = u32;\n" };
}

/// Snippets for everyone.
pub mod shared {
    use super::Snippet;

    /// `linear_group`, `linear_id`: one index from a two-dimensional grid.
    pub static LINEAR: Snippet = Snippet { name: "linear", text: include_str!("ops/shared/linear.wgsl") };
    /// `unary(op, x, a, b)`: every [`crate::graph::Unary`] on f32, for kernels of its own and for activations.
    pub static UNARY: Snippet = Snippet { name: "unary_fn", text: include_str!("ops/shared/unary_fn.wgsl") };
    /// `load_u8`, `load_i8`, `load_f16`, `pack_f16`: elements of packed words.
    pub static PACKED: Snippet = Snippet {
        name: "packed",
        text: concat!(include_str!("ops/shared/packed.wgsl"), include_str!("ops/shared/packed_f16.wgsl")),
    };
    /// The same without f16, for pipelines that must also compile where [`crate::gpu::Caps::packed_f16`] is absent.
    pub static PACKED_BYTES: Snippet = Snippet {
        name: "packed_bytes",
        text: concat!(include_str!("ops/shared/packed.wgsl"), include_str!("ops/shared/packed_no_f16.wgsl")),
    };
    /// `row_sum`, `row_max`: reductions over the lanes of a workgroup of 256 that share a row; sets `LANES`.
    pub static ROWS: Snippet = Snippet { name: "rows", text: include_str!("ops/shared/rows.wgsl") };
}

/// What a pipeline is cached under: a shader, the snippets before it, and its constants.
#[derive(Clone, Debug)]
pub struct PipelineKey {
    shader: &'static Shader,
    snippets: Vec<&'static Snippet>,
    /// Values as bits of f64, so that they hash.
    constants: Vec<(&'static str, u64)>,
}

impl PipelineKey {
    /// The shader alone.
    pub fn new(shader: &'static Shader) -> Self {
        PipelineKey { shader, snippets: Vec::new(), constants: Vec::new() }
    }

    /// With `snippet` before the shader, behind the snippets named earlier.
    pub fn with(mut self, snippet: &'static Snippet) -> Self {
        self.snippets.push(snippet);
        self
    }

    /// With a pipeline-overridable constant.
    pub fn set(mut self, name: &'static str, value: impl Into<f64>) -> Self {
        self.constants.push((name, value.into().to_bits()));
        self
    }

    /// The shader's name.
    pub fn name(&self) -> &'static str {
        self.shader.name
    }

    /// The shader.
    pub(crate) fn shader(&self) -> &'static Shader {
        self.shader
    }

    /// The complete WGSL.
    pub fn source(&self) -> String {
        let mut text = String::new();
        for snippet in &self.snippets {
            text.push_str(snippet.text);
            text.push('\n');
        }
        text.push_str(self.shader.text);
        text
    }

    /// The constants.
    pub fn constants(&self) -> Vec<(&'static str, f64)> {
        self.constants.iter().map(|&(name, bits)| (name, f64::from_bits(bits))).collect()
    }

    fn identity(&self) -> (&'static str, impl Iterator<Item = &'static str>, &[(&'static str, u64)]) {
        (self.shader.name, self.snippets.iter().map(|s| s.name), &self.constants)
    }
}

impl PartialEq for PipelineKey {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.identity(), other.identity());
        a.0 == b.0 && a.2 == b.2 && a.1.eq(b.1)
    }
}

impl Eq for PipelineKey {}

impl Hash for PipelineKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Names stand for texts: hashing kilobytes of WGSL for each dispatch would cost more than the dispatch.
        let (shader, snippets, constants) = self.identity();
        shader.hash(state);
        snippets.for_each(|s| s.hash(state));
        constants.hash(state);
    }
}

/// A pipeline with the layout of its bind group.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroupLayout,
}

#[derive(Clone)]
struct Layout {
    bindings: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// Bytes of a parameter block that a shader may see.
pub(crate) const PARAMS_BYTES: u64 = 512;

#[derive(Default)]
pub(crate) struct Pipelines {
    layouts: Mutex<HashMap<(u32, u32), Layout>>,
    pipelines: Mutex<HashMap<PipelineKey, Pipeline>>,
}

impl Pipelines {
    /// The pipeline of `key`, compiled at the first call.
    pub(crate) fn get(&self, device: &wgpu::Device, key: &PipelineKey) -> Pipeline {
        if let Some(found) = lock(&self.pipelines).get(key) {
            return found.clone();
        }
        let layout = self.layout(device, key.shader.inputs, key.shader.outputs);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(key.shader.name),
            source: wgpu::ShaderSource::Wgsl(key.source().into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(key.shader.name),
            layout: Some(&layout.pipeline),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &key.constants(),
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let made = Pipeline { pipeline, bindings: layout.bindings };
        lock(&self.pipelines).insert(key.clone(), made.clone());
        made
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.pipelines).len()
    }

    fn layout(&self, device: &wgpu::Device, inputs: u32, outputs: u32) -> Layout {
        let make = || {
            let entry = |binding, ty, has_dynamic_offset, min_binding_size| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
                count: None,
            };
            let storage = |i| wgpu::BufferBindingType::Storage { read_only: i < inputs };
            let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true, None)];
            entries.extend((0..inputs + outputs).map(|i| entry(i + 1, storage(i), false, None)));
            let bindings =
                device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&bindings)],
                immediate_size: 0,
            });
            Layout { bindings, pipeline }
        };
        lock(&self.layouts).entry((inputs, outputs)).or_insert_with(make).clone()
    }
}

impl Gpu {
    /// Compiles pipelines before they are needed. `progress` hears how many of how many are done.
    ///
    /// In a browser compilation runs beside the page: the wait between two pipelines is the browser's own answer that
    /// the last one is ready, so the page stays responsive.
    pub async fn warm_up(
        &self,
        keys: &[PipelineKey],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<(), KernelError> {
        for (i, key) in keys.iter().enumerate() {
            let answer = {
                let scope = self.shared.device.push_error_scope(wgpu::ErrorFilter::Validation);
                self.shared.pipelines.get(&self.shared.device, key);
                scope.pop()
            };
            if let Some(error) = answer.await {
                return Err(KernelError::Device(format!("shader {}: {error}", key.name())));
            }
            progress(i + 1, keys.len());
        }
        self.check()
    }

    /// Pipelines compiled so far.
    pub fn pipeline_count(&self) -> usize {
        self.shared.pipelines.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ONE: Shader = Shader { name: "test_one", inputs: 0, outputs: 0, text: "" };

    #[test]
    fn keys_differ_by_constants_and_snippets() {
        let plain = PipelineKey::new(&ONE);
        assert_eq!(plain, PipelineKey::new(&ONE));
        assert_ne!(plain, PipelineKey::new(&ONE).with(&types::F32));
        assert_ne!(PipelineKey::new(&ONE).set("A", 1), PipelineKey::new(&ONE).set("A", 2));
        assert_eq!(PipelineKey::new(&ONE).with(&types::F32).source(), "alias T = f32;\n\n");
    }
}
