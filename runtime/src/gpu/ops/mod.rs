//! The operator families.
//!
//! Each family is a folder with its `.wgsl` files and a `mod.rs` that holds
//! - `supports(op, facts)`: whether `record` will serve the operator; pure, so plans are made without a device;
//! - `record(op, ctx)`: picks a kernel by a pure function of types, shapes and [`Caps`], and dispatches it;
//! - `variants(caps)`: the keys of all its pipelines, which one test validates with naga.
//!
//! What `supports` refuses runs on the CPU backend. To add a family: a folder, and one line in each match below.

use super::device::{Caps, Gpu};
use super::pipeline::PipelineKey;
use super::recorder::Dispatch;
use super::tensor::{GpuTensor, device_bytes};
use crate::error::KernelError;
use crate::graph::Op;
use crate::tensor::DType;

pub(crate) mod attention;
pub(crate) mod binary;
pub(crate) mod cast;
pub(crate) mod conv;
pub(crate) mod fill;
pub(crate) mod gather;
pub(crate) mod integer;
pub(crate) mod layout;
pub(crate) mod matmul;
pub(crate) mod nbits;
pub(crate) mod norm;
pub(crate) mod quantize;
pub(crate) mod reduce;
pub(crate) mod rotary;
pub(crate) mod sample;
pub(crate) mod select;
pub(crate) mod shared;
pub(crate) mod softmax;
pub(crate) mod unary;

/// What is known of an operator's tensors before there are any.
pub(crate) struct Facts<'a> {
    /// What the device can do.
    pub(crate) caps: &'a Caps,
    /// Types and shapes of the inputs.
    pub(crate) inputs: &'a [Option<(DType, &'a [usize])>],
    /// Types and shapes of the outputs.
    pub(crate) outputs: &'a [(DType, &'a [usize])],
}

impl<'a> Facts<'a> {
    /// Type and shape of input `i`, if it is present.
    pub(crate) fn input(&self, i: usize) -> Option<(DType, &'a [usize])> {
        self.inputs.get(i).copied().flatten()
    }

    /// The type of input `i`, if it is present.
    pub(crate) fn input_type(&self, i: usize) -> Option<DType> {
        self.input(i).map(|(t, _)| t)
    }

    /// The type of output `i`, if there is one.
    pub(crate) fn output_type(&self, i: usize) -> Option<DType> {
        self.outputs.get(i).map(|&(t, _)| t)
    }

    /// The number of elements of input `i`; 0 if it is absent.
    pub(crate) fn input_len(&self, i: usize) -> usize {
        self.input(i).map_or(0, |(_, s)| s.iter().product())
    }
}

/// An operator's tensors while it is recorded.
pub(crate) struct Ctx<'a> {
    /// The device.
    pub(crate) gpu: &'a Gpu,
    /// The operator's name, for errors.
    pub(crate) name: &'static str,
    /// The inputs.
    pub(crate) inputs: &'a [Option<&'a GpuTensor>],
    /// The outputs.
    pub(crate) outputs: &'a [&'a GpuTensor],
    /// Where dispatches go instead of the device, when only their pipelines are asked for.
    pub(crate) collect: Option<&'a std::cell::RefCell<Vec<PipelineKey>>>,
}

impl<'a> Ctx<'a> {
    /// What the device can do.
    pub(crate) fn caps(&self) -> &'a Caps {
        self.gpu.caps()
    }

    /// Input `i`, which must be there.
    pub(crate) fn input(&self, i: usize) -> Result<&'a GpuTensor, KernelError> {
        self.optional(i).ok_or_else(|| KernelError::Invalid(format!("{}: input {i} is missing", self.name)))
    }

    /// Input `i`, if it is there.
    pub(crate) fn optional(&self, i: usize) -> Option<&'a GpuTensor> {
        self.inputs.get(i).copied().flatten()
    }

    /// Output `i`, which must be there.
    pub(crate) fn output(&self, i: usize) -> Result<&'a GpuTensor, KernelError> {
        let output = self.outputs.get(i).copied();
        output.ok_or_else(|| KernelError::Invalid(format!("{}: output {i} is missing", self.name)))
    }

    /// The integers of input `i`, which must be known to the host; `None` if the input is absent.
    pub(crate) fn host_i64(&self, i: usize) -> Result<Option<Vec<i64>>, KernelError> {
        let Some(tensor) = self.optional(i) else { return Ok(None) };
        let known = tensor.host_i64();
        known.map(Some).ok_or_else(|| self.unsupported(format!("input {i} is not known to the host")))
    }

    /// The error for what no kernel serves.
    pub(crate) fn unsupported(&self, reason: String) -> KernelError {
        KernelError::Unsupported { backend: "gpu", op: self.name, reason }
    }

    /// Memory for a kernel's intermediate result.
    pub(crate) fn scratch(&self, dtype: DType, shape: &[usize]) -> Result<GpuTensor, KernelError> {
        if self.collect.is_some() { Ok(self.gpu.phantom(dtype, shape)) } else { self.gpu.alloc(dtype, shape) }
    }

    /// Records a kernel launch.
    pub(crate) fn dispatch(&self, d: Dispatch<'_>) -> Result<(), KernelError> {
        match self.collect {
            Some(keys) => {
                keys.borrow_mut().push(d.key);
                Ok(())
            }
            None => self.gpu.dispatch(d),
        }
    }
}

/// Whether [`record`] serves `op`.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let fits = |dtype: DType, shape: &[usize]| {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        // Kernels count elements in 32 bits, with room for the last workgroup to overshoot.
        elements.is_some_and(|n| {
            (dtype != DType::F16 || facts.caps.packed_f16)
                && n < u32::MAX as usize - (1 << 20)
                && device_bytes(dtype, n) <= facts.caps.max_storage_buffer_binding_size.min(facts.caps.max_buffer_size)
        })
    };
    if !facts.inputs.iter().flatten().all(|&(t, s)| fits(t, s)) || !facts.outputs.iter().all(|&(t, s)| fits(t, s)) {
        return false;
    }
    match op {
        Op::Unary(u) => unary::supports(*u, facts),
        Op::Binary(b) => binary::supports(*b, facts),
        Op::Where => select::supports(facts),
        Op::Cast { .. } => cast::supports(facts),
        Op::Transpose { .. } | Op::Slice | Op::Expand | Op::Tile => layout::supports(op, facts),
        Op::Concat { .. } | Op::Split { .. } | Op::Pad { .. } => layout::supports(op, facts),
        Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => gather::supports(op, facts),
        Op::ConstantOfShape { .. } | Op::Range | Op::Trilu { .. } => fill::supports(op, facts),
        Op::Reduce { .. } | Op::ArgMax { .. } => reduce::supports(op, facts),
        Op::Softmax { axis, .. } => softmax::supports(*axis, facts),
        Op::Norm(n) => norm::supports(n, facts),
        Op::RotaryEmbedding(r) => rotary::supports(r, facts),
        Op::Sample => sample::supports(facts),

        Op::MatMul(m) => matmul::supports(m, facts),
        Op::MatMulInteger | Op::MatMulIntegerToFloat(_) => integer::supports(op, facts),
        Op::MatMulNBits(_) | Op::GatherBlockQuantized(_) => nbits::supports(op, facts),
        Op::Conv(_) | Op::ConvInteger(_) | Op::ConvIntegerToFloat(_) | Op::Pool(_) => conv::supports(op, facts),
        Op::Attention(_) | Op::GroupQueryAttention(_) => attention::supports(op, facts),
        Op::DynamicQuantizeLinear | Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => {
            quantize::supports(op, facts)
        }
        _ => false,
    }
}

/// Records `op`.
pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    match op {
        Op::Unary(u) => unary::record(*u, ctx),
        Op::Binary(b) => binary::record(*b, ctx),
        Op::Where => select::record(ctx),
        Op::Cast { .. } => cast::record(ctx),
        Op::Transpose { .. } | Op::Slice | Op::Expand | Op::Tile => layout::record(op, ctx),
        Op::Concat { .. } | Op::Split { .. } | Op::Pad { .. } => layout::record(op, ctx),
        Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => gather::record(op, ctx),
        Op::ConstantOfShape { .. } | Op::Range | Op::Trilu { .. } => fill::record(op, ctx),
        Op::Reduce { .. } | Op::ArgMax { .. } => reduce::record(op, ctx),
        Op::Softmax { axis, zero_masked_rows } => softmax::record(*axis, *zero_masked_rows, ctx),
        Op::Norm(n) => norm::record(n, ctx),
        Op::RotaryEmbedding(r) => rotary::record(r, ctx),
        Op::Sample => sample::record(ctx),

        Op::MatMul(m) => matmul::record(m, ctx),
        Op::MatMulInteger | Op::MatMulIntegerToFloat(_) => integer::record(op, ctx),
        Op::MatMulNBits(_) | Op::GatherBlockQuantized(_) => nbits::record(op, ctx),
        Op::Conv(_) | Op::ConvInteger(_) | Op::ConvIntegerToFloat(_) | Op::Pool(_) => conv::record(op, ctx),
        Op::Attention(_) | Op::GroupQueryAttention(_) => attention::record(op, ctx),
        Op::DynamicQuantizeLinear | Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => {
            quantize::record(op, ctx)
        }
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

/// The keys of every pipeline that may be asked for on such a device.
#[cfg(test)]
fn variants(caps: &Caps) -> Vec<PipelineKey> {
    [
        unary::variants(caps),
        binary::variants(caps),
        select::variants(caps),
        cast::variants(caps),
        layout::variants(caps),
        gather::variants(caps),
        fill::variants(caps),
        reduce::variants(caps),
        softmax::variants(caps),
        norm::variants(caps),
        rotary::variants(caps),
        sample::variants(caps),
        //
        matmul::variants(caps),
        integer::variants(caps),
        nbits::variants(caps),
        conv::variants(caps),
        attention::variants(caps),
        quantize::variants(caps),
    ]
    .concat()
}

/// Inputs of `op` whose values must be known to the host when it is recorded: bounds and axes. They must be constants, or
/// results that were uploaded; what a kernel computed on the device is not known. What the output's shape already tells
/// (the shape of Expand, the sizes of Split) is not asked for.
pub fn host_inputs(op: &Op) -> &'static [usize] {
    match op {
        Op::Slice => &[1, 3, 4],
        Op::Pad { .. } => &[1, 3],
        Op::Reduce { axes: None, .. } => &[1],
        _ => &[],
    }
}

impl Gpu {
    /// Whether [`Gpu::record`] serves `op` with such tensors. What it refuses runs on the CPU backend.
    pub fn supports(&self, op: &Op, inputs: &[Option<(DType, &[usize])>], outputs: &[(DType, &[usize])]) -> bool {
        supports(op, &Facts { caps: self.caps(), inputs, outputs })
    }

    /// Records `op`; the outputs have the types and shapes that shape inference gave. Nothing runs before
    /// [`Gpu::flush`] or [`Gpu::download`], or until enough is recorded.
    pub fn record(&self, op: &Op, inputs: &[Option<&GpuTensor>], outputs: &[&GpuTensor]) -> Result<(), KernelError> {
        record(op, &Ctx { gpu: self, name: op.name(), inputs, outputs, collect: None })
    }

    /// Records an attention whose caches of keys and values [batch, heads, capacity, size] grow in place: they hold `past`
    /// rows, and get the new ones.
    pub(crate) fn record_growing(
        &self,
        op: &crate::graph::Attention,
        inputs: &[Option<&GpuTensor>],
        keys: &GpuTensor,
        values: &GpuTensor,
        past: usize,
        y: &GpuTensor,
    ) -> Result<(), KernelError> {
        let ctx = Ctx { gpu: self, name: "Attention", inputs, outputs: &[y], collect: None };
        attention::record_growing(op, &ctx, keys, values, past)
    }

    /// Records the copy of the first `rows` rows of each head of a cache into a larger one.
    pub(crate) fn record_move(&self, from: &GpuTensor, to: &GpuTensor, rows: usize) -> Result<(), KernelError> {
        attention::record_move(
            &Ctx { gpu: self, name: "Attention", inputs: &[], outputs: &[], collect: None },
            from,
            to,
            rows,
        )
    }

    /// The pipelines that [`Gpu::record`] would use, for [`Gpu::warm_up`]. Operators whose kernel depends on values
    /// (bounds of a slice) give none and compile when first run.
    pub fn pipeline_keys(
        &self,
        op: &Op,
        inputs: &[Option<(DType, &[usize])>],
        outputs: &[(DType, &[usize])],
    ) -> Vec<PipelineKey> {
        let phantom = |&(dtype, shape): &(DType, &[usize])| self.phantom(dtype, shape);
        let inputs: Vec<_> = inputs.iter().map(|i| i.as_ref().map(phantom)).collect();
        let outputs: Vec<_> = outputs.iter().map(phantom).collect();
        let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
        let outputs: Vec<_> = outputs.iter().collect();
        let keys = std::cell::RefCell::default();
        let ctx = Ctx { gpu: self, name: op.name(), inputs: &inputs, outputs: &outputs, collect: Some(&keys) };
        // Without values some operators cannot be recorded; then what came so far is all that is known.
        let _ = record(op, &ctx);
        keys.into_inner()
    }

    /// A tensor without memory of its own.
    fn phantom(&self, dtype: DType, shape: &[usize]) -> GpuTensor {
        let buffer = self.shared.zeros.clone();
        GpuTensor { dtype, shape: shape.to_vec(), buffer, host: None, constant: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::validate;

    #[test]
    fn every_variant_is_valid_wgsl() {
        let mut texts = std::collections::HashMap::new();
        for caps in [Caps::minimal(), Caps::typical()] {
            for key in variants(&caps) {
                if let Some(earlier) = texts.insert(key.clone(), key.source()) {
                    assert_eq!(earlier, key.source(), "{}: one name, two texts", key.name());
                    continue;
                }
                validate(&key, &caps);
            }
        }
        assert!(!texts.is_empty());
    }
}
