//! Which micro-kernels run on this machine.

use std::sync::OnceLock;

use super::{ByteKernel, Kernel, PairKernels};
#[cfg(target_arch = "x86_64")]
use super::{avx_vnni, avx2, avx512};
#[cfg(target_arch = "aarch64")]
use super::{neon, neon_dot};

/// The micro-kernels for one level of instructions.
pub(crate) struct Kernels {
    /// The level's name.
    pub(crate) name: &'static str,
    /// Products of f32.
    pub(crate) f32: &'static Kernel<f32>,
    /// Products of 16-bit differences.
    pub(crate) wide: &'static Kernel<i16>,
    /// Products of bytes, where an instruction adds them up exactly; they take precedence over `wide`.
    pub(crate) bytes: Option<&'static ByteKernel>,
    /// Products of bytes for machines without `bytes`, exact with what [`crate::cpu::integer`] does about saturation.
    pub(crate) pairs: Option<&'static PairKernels>,
}

impl Kernels {
    /// What this machine runs, the best first; the last one runs anywhere.
    pub(crate) fn available() -> &'static [Kernels] {
        static FOUND: OnceLock<Vec<Kernels>> = OnceLock::new();
        FOUND.get_or_init(detect)
    }
}

#[allow(clippy::vec_init_then_push, reason = "what is pushed depends on the machine")]
fn detect() -> Vec<Kernels> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let level = |name, f32, bytes: Option<_>| {
            let pairs = if bytes.is_none() { Some(&avx2::PAIRS) } else { None };
            Kernels { name, f32, wide: &avx2::I16, bytes, pairs }
        };
        if is_x86_feature_detected!("avx512f") {
            if is_x86_feature_detected!("avx512vnni") {
                found.push(level("avx512-vnni", &avx512::F32, Some(&avx512::BYTES)));
            }
            found.push(level("avx512", &avx512::F32, None));
        }
        if is_x86_feature_detected!("avxvnni") {
            found.push(level("avx-vnni", &avx2::F32, Some(&avx_vnni::BYTES)));
        }
        found.push(level("avx2", &avx2::F32, None));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let level = |name, bytes| Kernels { name, f32: &neon::F32, wide: &neon::I16, bytes, pairs: None };
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found.push(level("neon-dot", Some(&neon_dot::BYTES)));
        }
        // Every aarch64 processor that Rust's targets with a standard library run on has NEON.
        found.push(level("neon", None));
    }
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    {
        use super::wasm;
        let level = |name, bytes, pairs| Kernels { name, f32: &wasm::F32, wide: &wasm::I16, bytes, pairs };
        #[cfg(target_feature = "relaxed-simd")]
        if let Some(bytes) = super::wasm_dot::bytes() {
            let name = if bytes.a_signed { "relaxed-signed" } else { "relaxed-unsigned" };
            found.push(level(name, Some(bytes), None));
        } else if let Some(pairs) = super::wasm_dot::pairs() {
            found.push(level("relaxed-saturating", None, Some(pairs)));
        }
        found.push(level("simd128", None, None));
    }
    // Not in modules with SIMD, which have levels that run anywhere, and for which size matters.
    #[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
    {
        use super::portable;
        let level = |name, bytes| Kernels { name, f32: &portable::F32, wide: &portable::I16, bytes, pairs: None };
        found.push(level("portable", None));
        // The portable tiles of bytes are for machines that have no others to test the callers with.
        found.push(level("portable-bytes", Some(&portable::BYTES)));
    }
    found
}

/// A level of instructions that the CPU's matrix products are limited to.
///
/// The default is the best that the machine has. Others serve tests and comparisons: results of integers are equal on
/// all of them, those of floats differ by rounding.
#[derive(Clone, Copy)]
pub struct CpuKernels(pub(crate) &'static Kernels);

impl CpuKernels {
    /// The levels that this machine has, the best first.
    pub fn available() -> impl Iterator<Item = CpuKernels> {
        Kernels::available().iter().map(CpuKernels)
    }

    /// The level called `name`, if this machine has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|kernels| kernels.name() == name)
    }

    /// Its name, such as `avx512-vnni`.
    pub fn name(&self) -> &'static str {
        self.0.name
    }
}

impl Default for CpuKernels {
    fn default() -> Self {
        CpuKernels(&Kernels::available()[0])
    }
}

impl std::fmt::Debug for CpuKernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_by_name() {
        for kernels in CpuKernels::available() {
            assert_eq!(CpuKernels::named(kernels.name()).unwrap().name(), kernels.name());
        }
        assert!(CpuKernels::named("abacus").is_none());
        assert_eq!(CpuKernels::default().name(), Kernels::available()[0].name);
        assert!(CpuKernels::named("portable").is_some());
    }

    /// Where a stage of `cargo xtask test` has chosen the processor, it says what must be found on it.
    #[test]
    fn the_default_is_the_best_that_the_processor_has() {
        if let Ok(expected) = std::env::var("LENSLET_TEST_EXPECT_KERNELS") {
            assert_eq!(CpuKernels::default().name(), expected);
        }
    }
}
