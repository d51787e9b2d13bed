//! Not written yet: everything runs on the CPU backend.

use super::{Ctx, Facts};
use crate::error::KernelError;

/// Whether [`record`] serves the operator.
pub(crate) fn supports(_op: &crate::graph::Op, _facts: &Facts<'_>) -> bool {
    false
}

/// Records the operator.
pub(crate) fn record(_op: &crate::graph::Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    Err(ctx.unsupported("no kernel".into()))
}

/// All pipelines.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<crate::gpu::PipelineKey> {
    Vec::new()
}
