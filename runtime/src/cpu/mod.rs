//! Kernels for x86-64, aarch64 and wasm32: the reference for every operator.
//!
//! One operator family a file; this room only sends an operator to its family. Kernels write into outputs that the
//! executor allocated with the inferred type and shape, and take scratch memory from `Cpu::scratch`, so that a
//! steady-state run allocates nothing. All tensors are contiguous and row-major.

pub(crate) mod args;
pub(crate) mod attention;
mod broadcast;
pub(crate) mod conv;
pub(crate) mod elementwise;
pub(crate) mod epilogue;
pub(crate) mod integer;
pub(crate) mod layout;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod nbits;
pub(crate) mod norm;
pub(crate) mod operands;
pub(crate) mod packed;
pub(crate) mod parallel;
pub(crate) mod quantize;
#[cfg(test)]
mod random;
pub(crate) mod reduce;
pub(crate) mod sample;
pub(crate) mod softmax;
#[cfg(test)]
mod speed;

pub use matmul::kernel::CpuKernels;
use matmul::kernel::Kernels;
#[cfg(all(feature = "threads", target_arch = "wasm32"))]
pub use parallel::workers;

use crate::error::KernelError;
use crate::graph::{ConvInteger, ConvIntegerToFloat, Op};
use crate::tensor::{AlignedBytes, BufferPool, ConstantId, DType, Tensor, TensorView, TensorViewMut};

/// What becomes of a constant ahead of the first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Kernels read its elements.
    Nothing,
    /// It was packed, and the packed form is all that kernels read, whatever the other operands turn out to be.
    Packed,
    /// Kernels read a packed form, which depends on the other operands: the backend wants the elements for itself.
    Keep,
}

/// The CPU backend of one session: threads, scratch memory and packed weights.
pub struct Cpu {
    /// How many threads kernels may use; 1 in a browser without shared memory.
    threads: usize,
    /// Scratch memory that kernels borrow.
    pub(crate) scratch: BufferPool,
    /// Constants in the forms that kernels read.
    pub(crate) packed: packed::PackCache,
    kernels: CpuKernels,
}

impl Cpu {
    /// A backend that uses up to `threads` threads (0: as many as there are cores).
    pub fn new(threads: usize) -> Self {
        Self::with_kernels(threads, CpuKernels::default())
    }

    /// The same, with matrix products limited to `kernels`.
    pub fn with_kernels(threads: usize, kernels: CpuKernels) -> Self {
        let threads = if threads == 0 { parallel::cores() } else { threads };
        Cpu { threads, scratch: BufferPool::default(), packed: packed::PackCache::default(), kernels }
    }

    /// The micro-kernels of matrix products.
    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.kernels.0
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// For each kind of micro-kernels that this machine has, one with one thread and one with two.
    #[cfg(test)]
    pub(crate) fn of_every_kind() -> impl Iterator<Item = Cpu> {
        CpuKernels::available().flat_map(|kernels| [1, 2].map(|threads| Cpu::with_kernels(threads, kernels)))
    }

    /// What a product needs: all threads and the scratch memory.
    pub(crate) fn context(&self) -> matmul::Context<'_> {
        matmul::Context { threads: self.threads, scratch: &self.scratch, kernels: self.kernels() }
    }

    /// What becomes of `constant`, operand `index` of `op`, ahead of the first run. It is packed here if it is to be.
    pub(crate) fn ahead(&self, op: &Op, index: usize, constant: &Tensor) -> Ahead {
        // A weight matrix on the right of a product, or filters that see all channels.
        let view = constant.constant_view();
        let packed = match (op, index, view.shape) {
            (Op::MatMul(op), 1, [_, _]) => matmul::pack_ahead(self, op, view),
            (Op::MatMulInteger | Op::MatMulIntegerToFloat(_), 1, &[k, n]) => integer::pack_ahead(self, view, k, n),
            (
                Op::ConvInteger(ConvInteger { groups, .. }) | Op::ConvIntegerToFloat(ConvIntegerToFloat { groups, .. }),
                1,
                _,
            ) => conv::pack_ahead_integer(self, *groups, view),
            (Op::Conv(op), 1, _) => match conv::pack_ahead(self, op, view) {
                false if op.groups == 1 && view.dtype == DType::F32 => return Ahead::Keep,
                packed => packed,
            },
            _ => false,
        };
        if packed { Ahead::Packed } else { Ahead::Nothing }
    }

    /// Rows up to which an operator makes each as it would alone, bit for bit: the order in which a product adds depends on how many
    /// rows it has.
    pub(crate) fn rows_alike(&self, op: &Op) -> usize {
        match op {
            Op::MatMul(_) => matmul::rows_alike(self),
            Op::MatMulNBits(_) => nbits::THIN.min(matmul::rows_alike(self)),
            _ => usize::MAX,
        }
    }

    /// Moves what was made of constant `id` to the memory that its elements had.
    pub(crate) fn settle_packed(&self, id: ConstantId, memory: AlignedBytes) {
        self.packed.settle(id, memory);
    }

    /// Says whether many constants are about to be packed, or have been.
    pub(crate) fn expect_packing(&self, many: bool) {
        self.packed.expect(many);
    }

    /// Takes the elements of constant `id` until a kernel chooses a form for them.
    pub(crate) fn keep(&self, id: ConstantId, elements: AlignedBytes) {
        self.packed.keep(id, elements);
    }

    /// Runs `op`. `outputs` have the types and shapes that shape inference gave.
    pub fn run(
        &self,
        op: &Op,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        match op {
            Op::Unary(unary) => elementwise::run(self, *unary, inputs, outputs),
            Op::Binary(binary) => elementwise::binary::run(self, *binary, inputs, outputs),
            Op::Where => elementwise::select::run(self, inputs, outputs),
            Op::Cast { to } => elementwise::cast::run(self, *to, inputs, outputs),
            Op::MatMul(op) => matmul::run(self, op, inputs, outputs),
            Op::MatMulInteger => integer::run(self, inputs, outputs),
            Op::MatMulIntegerToFloat(op) => integer::run_to_float(self, op, inputs, outputs),
            Op::MatMulNBits(op) => nbits::run(self, op, inputs, outputs),
            Op::GatherBlockQuantized(op) => nbits::run_gather(self, op, inputs, outputs),
            Op::Conv(op) => conv::run(self, op, inputs, outputs),
            Op::ConvInteger(op) => conv::run_integer(self, op, inputs, outputs),
            Op::ConvIntegerToFloat(op) => conv::run_integer_to_float(self, op, inputs, outputs),
            Op::Pool(op) => conv::run_pool(self, op, inputs, outputs),
            Op::Norm(op) => norm::run(self, op, inputs, outputs),
            Op::Attention(op) => attention::run(self, op, inputs, outputs),
            Op::GroupQueryAttention(op) => attention::grouped::run(self, op, inputs, outputs),
            Op::RotaryEmbedding(op) => attention::rotary::run(self, op, inputs, outputs),
            Op::Softmax { axis, zero_masked_rows } => softmax::run(self, *axis, *zero_masked_rows, inputs, outputs),
            // Shape inference has already applied `keep_dims`: the elements are the same either way.
            Op::Reduce { kind, axes, keep_dims: _, noop_with_empty_axes } => {
                reduce::run(self, *kind, axes.as_deref(), *noop_with_empty_axes, inputs, outputs)
            }
            Op::ArgMax { axis, keep_dims: _, last, min } => reduce::arg_max(*axis, *last, *min, inputs, outputs),
            Op::DynamicQuantizeLinear => quantize::run_dynamic(self, inputs, outputs),
            Op::QuantizeLinear { axis, to, block } => quantize::run_quantize(self, *axis, *to, *block, inputs, outputs),
            Op::DequantizeLinear { axis, block } => quantize::run_dequantize(self, *axis, *block, inputs, outputs),
            Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. } | Op::Identity => {
                layout::alias(op.name(), inputs, outputs)
            }
            Op::Transpose { perm } => layout::views::transpose(self, perm.as_deref(), inputs, outputs),
            Op::Concat { axis } => layout::join::concat(*axis, inputs, outputs),
            Op::Split { axis, sizes } => layout::join::split(*axis, sizes.as_deref(), inputs, outputs),
            Op::Slice => layout::views::slice(self, inputs, outputs),
            Op::Gather { axis } => layout::gather::gather(*axis, inputs, outputs),
            Op::GatherNd { batch_dims } => layout::gather::gather_nd(*batch_dims, inputs, outputs),
            Op::GatherElements { axis } => layout::gather::gather_elements(*axis, inputs, outputs),
            Op::Expand => layout::views::expand(self, inputs, outputs),
            Op::Tile => layout::views::tile(self, inputs, outputs),
            Op::Pad { mode } => layout::pad::pad(*mode, inputs, outputs),
            Op::ConstantOfShape { value } => layout::generate::constant_of_shape(value, outputs),
            Op::Range => layout::generate::range(inputs, outputs),
            Op::Shape { start, end } => layout::generate::shape(*start, *end, inputs, outputs),
            Op::Size => layout::generate::size(inputs, outputs),
            Op::CumSum { exclusive, reverse } => layout::scan::cumsum(*exclusive, *reverse, inputs, outputs),
            Op::Trilu { upper } => layout::scan::trilu(*upper, inputs, outputs),
            Op::Sample => sample::run(self, inputs, outputs),
            Op::NonZero => Err(KernelError::Unsupported {
                backend: "cpu",
                op: op.name(),
                reason: "the shape of its output is only known by running it (run_dynamic)".into(),
            }),
        }
    }

    /// Runs an operator whose output's shape depends on data ([`Op::has_data_dependent_shape`]).
    pub fn run_dynamic(&self, op: &Op, inputs: &[Option<TensorView<'_>>]) -> Result<Vec<Tensor>, KernelError> {
        match op {
            Op::NonZero => Ok(vec![layout::generate::nonzero(inputs)?]),
            _ => Err(KernelError::Unsupported {
                backend: "cpu",
                op: op.name(),
                reason: "the shape of its output does not depend on data (run)".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Binary, Unary};

    #[test]
    fn operators_reach_their_kernels() {
        let cpu = Cpu::new(1);
        let x = Tensor::vector(&[0f32, -2.0, 3.0]);
        let one = |op: &Op| {
            let ins = [Some(&x), Some(&x)];
            args::testing::run(&ins[..], &[(DType::F32, &[3])], |i, o| cpu.run(op, i, o))
                .map(|y| y[0].to_f32_vec().unwrap())
        };
        assert_eq!(one(&Op::Unary(Unary::Abs)).unwrap(), [0.0, 2.0, 3.0]);
        assert_eq!(one(&Op::Binary(Binary::Add)).unwrap(), [0.0, -4.0, 6.0]);
        assert!(one(&Op::NonZero).is_err());
        let y = cpu.run_dynamic(&Op::NonZero, &[Some(x.view())]).unwrap();
        assert_eq!(y[0].to_i64_vec().unwrap(), [1, 2]);
        assert!(cpu.run_dynamic(&Op::Size, &[Some(x.view())]).is_err());
        assert!(cpu.run(&Op::Identity, &[], &mut []).is_err());
    }

    /// The first row of `op` over as many rows as it says, and by itself, with the other operands as `rest`.
    fn together_and_alone(cpu: &Cpu, op: &Op, k: usize, n: usize, rest: &[&Tensor]) -> [Vec<u32>; 2] {
        let rows = cpu.rows_alike(op);
        let a: Vec<f32> = (0..rows * k).map(|i| (i as f32 * 0.37).sin()).collect();
        [rows, 1].map(|m| {
            let a = Tensor::from_slice(&[m, k], &a[..m * k]).unwrap();
            let views: Vec<_> =
                [Some(a.view())].into_iter().chain(rest.iter().map(|t| Some(t.constant_view()))).collect();
            let mut y = vec![0f32; m * n];
            let shape = [m, n];
            let out = TensorViewMut { dtype: DType::F32, shape: &shape, bytes: bytemuck::cast_slice_mut(&mut y) };
            cpu.run(op, &views, &mut [out]).unwrap();
            y[..n].iter().map(|x| x.to_bits()).collect()
        })
    }

    #[test]
    fn a_row_among_others_is_what_it_is_alone() {
        // K is read in several stretches.
        let (k, n) = (2500, 40);
        let floats: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.61).cos()).collect();
        let weights = Tensor::from_slice(&[k, n], &floats).unwrap();
        let product = Op::MatMul(crate::graph::MatMul::default());
        let bytes: Vec<u8> = (0..n * 80 * 16).map(|i| (i * 31 % 251) as u8).collect();
        let quantized = Tensor::from_slice(&[n, 80, 16], &bytes).unwrap();
        let scales = Tensor::vector(&floats[..n * 80]);
        let few_bits = crate::graph::MatMulNBits { bits: 4, block: 32, k: 2560, n, activation: None };
        let few_bits = Op::MatMulNBits(few_bits);
        for cpu in Cpu::of_every_kind() {
            assert!(cpu.rows_alike(&product) >= 8);
            let [together, alone] = together_and_alone(&cpu, &product, k, n, &[&weights]);
            assert_eq!(together, alone, "{}", cpu.kernels().f32.name);
            let [together, alone] = together_and_alone(&cpu, &few_bits, 2560, n, &[&quantized, &scales]);
            assert_eq!(together, alone, "4 bits, {}", cpu.kernels().f32.name);
        }
        assert_eq!(Cpu::new(1).rows_alike(&Op::NonZero), usize::MAX);
    }
}
