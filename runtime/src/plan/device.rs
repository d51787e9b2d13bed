//! The GPU backend as the executor sees it, or a stand-in that cannot exist when the feature `gpu` is off.

#[cfg(feature = "gpu")]
pub(crate) use crate::gpu::{Gpu, GpuTensor, Readback};

#[cfg(feature = "gpu")]
impl super::Placement for Gpu {
    fn supports(&self, op: &crate::graph::Op, inputs: &[Option<super::Concrete>], outputs: &[super::Concrete]) -> bool {
        let inputs: Vec<_> = inputs.iter().map(|i| i.as_ref().map(|(d, s)| (*d, s.as_slice()))).collect();
        let outputs: Vec<_> = outputs.iter().map(|(d, s)| (*d, s.as_slice())).collect();
        Gpu::supports(self, op, &inputs, &outputs)
    }
}

#[cfg(not(feature = "gpu"))]
pub(crate) use none::{Gpu, GpuTensor, Readback};

#[cfg(not(feature = "gpu"))]
mod none {
    use crate::error::KernelError;
    use crate::graph::{Attention, Op};
    use crate::plan::{Concrete, Placement};
    use crate::tensor::{DType, Tensor, TensorView};

    /// Never made: sessions have no GPU without the feature.
    pub(crate) struct Gpu(());

    #[derive(Clone)]
    pub(crate) struct GpuTensor(());

    pub(crate) struct Readback(());

    fn absent<T>() -> Result<T, KernelError> {
        Err(KernelError::Device("this build has no GPU backend".into()))
    }

    impl Gpu {
        pub(crate) async fn download(&self, _: &GpuTensor) -> Result<Tensor, KernelError> {
            absent()
        }
        pub(crate) async fn download_all(&self, _: &[GpuTensor]) -> Result<Vec<Tensor>, KernelError> {
            absent()
        }
        pub(crate) fn upload(&self, _: TensorView<'_>) -> Result<GpuTensor, KernelError> {
            absent()
        }
        pub(crate) fn alloc(&self, _: DType, _: &[usize]) -> Result<GpuTensor, KernelError> {
            absent()
        }
        pub(crate) fn record(&self, _: &Op, _: &[Option<&GpuTensor>], _: &[&GpuTensor]) -> Result<(), KernelError> {
            absent()
        }
        pub(crate) fn record_growing(
            &self,
            _: &Attention,
            _: &[Option<&GpuTensor>],
            _: &GpuTensor,
            _: &GpuTensor,
            _: usize,
            _: &GpuTensor,
        ) -> Result<(), KernelError> {
            absent()
        }
        pub(crate) fn begin_read(&self, _: Vec<GpuTensor>) -> Result<Readback, KernelError> {
            absent()
        }
        pub(crate) async fn finish_read(&self, _: Readback) -> Result<Vec<Tensor>, KernelError> {
            absent()
        }
        pub(crate) fn record_move(&self, _: &GpuTensor, _: &GpuTensor, _: usize) -> Result<(), KernelError> {
            absent()
        }
    }

    impl GpuTensor {
        pub(crate) fn dtype(&self) -> DType {
            DType::F32
        }
        pub(crate) fn shape(&self) -> &[usize] {
            &[]
        }
        pub(crate) fn is_shared(&self) -> bool {
            false
        }
        pub(crate) fn reshaped(&self, _: &[usize]) -> Result<GpuTensor, KernelError> {
            absent()
        }
    }

    impl Placement for Gpu {
        fn supports(&self, _: &Op, _: &[Option<Concrete>], _: &[Concrete]) -> bool {
            false
        }
    }
}
