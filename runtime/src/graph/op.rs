//! The operators: a closed set of typed structs.
//!
//! The importer decomposes what it can into these (a `BiasGelu` is an [`Op::Binary`] and an [`Op::Unary`]) and the
//! optimiser fuses what pays, so a kernel has one form to serve however a model was exported. Inputs are listed in
//! order; `name?` may be absent.

use super::attributes::*;
use crate::tensor::{DType, Tensor};

/// One operator.
#[derive(Clone, Debug)]
pub enum Op {
    /// Inputs: `x`.
    Unary(Unary),
    /// Inputs: `a`, `b`, broadcast.
    Binary(Binary),
    /// Inputs: `condition` bool, `a`, `b`, broadcast.
    Where,
    /// Inputs: `x`. Float to integer truncates; float to bool tests for non-zero.
    Cast {
        /// Type of the output.
        to: DType,
    },
    /// See [`MatMul`].
    MatMul(MatMul),
    /// Inputs: `a`, `b` (u8 or i8), `a_zero?` (scalar, or \[M\]), `b_zero?` (scalar, or \[N\]). Output: i32.
    MatMulInteger,
    /// See [`MatMulIntegerToFloat`].
    MatMulIntegerToFloat(MatMulIntegerToFloat),
    /// See [`MatMulNBits`].
    MatMulNBits(MatMulNBits),
    /// See [`GatherBlockQuantized`].
    GatherBlockQuantized(GatherBlockQuantized),
    /// See [`Conv`].
    Conv(Conv),
    /// See [`ConvInteger`].
    ConvInteger(ConvInteger),
    /// See [`ConvIntegerToFloat`].
    ConvIntegerToFloat(ConvIntegerToFloat),
    /// See [`Pool`].
    Pool(Pool),
    /// See [`Norm`].
    Norm(Norm),
    /// See [`Attention`].
    Attention(Attention),
    /// See [`GroupQueryAttention`].
    GroupQueryAttention(GroupQueryAttention),
    /// See [`RotaryEmbedding`].
    RotaryEmbedding(RotaryEmbedding),
    /// Inputs: `x`.
    Softmax {
        /// The dimension that sums to 1; negative counts from the end.
        axis: i64,
        /// Store zeros instead of NaN for a row that is minus infinity throughout.
        zero_masked_rows: bool,
    },
    /// Inputs: `x`, `axes?` i64. Axes come from the attribute if it is `Some`; neither means all dimensions.
    Reduce {
        /// What is computed.
        kind: Reduce,
        /// Dimensions, negative from the end.
        axes: Option<Vec<i64>>,
        /// Keep reduced dimensions as 1.
        keep_dims: bool,
        /// With no axes: return x unchanged.
        noop_with_empty_axes: bool,
    },
    /// Inputs: `x`. Output: i64.
    ArgMax {
        /// The dimension searched; negative counts from the end.
        axis: i64,
        /// Keep it as 1.
        keep_dims: bool,
        /// Of equals, take the last.
        last: bool,
        /// Find the least instead.
        min: bool,
    },
    /// Inputs: `x` f32. Outputs: `y` u8, `scale` f32 scalar, `zero` u8 scalar, of the whole tensor, as ONNX defines it.
    DynamicQuantizeLinear,
    /// `y = saturate(round_half_even(x / scale) + zero)`. Inputs: `x`, `scale` (scalar, \[C\] or blocked), `zero?`.
    QuantizeLinear {
        /// The dimension of a per-channel scale.
        axis: i64,
        /// Type of the output.
        to: DType,
        /// Elements along axis that share a scale; 0 if not blocked.
        block: usize,
    },
    /// `y = (x - zero) * scale`. Inputs: `x` (i8, u8 or i32), `scale` (scalar, \[C\] or blocked), `zero?`. Output f32.
    DequantizeLinear {
        /// The dimension of a per-channel scale.
        axis: i64,
        /// Elements along axis that share a scale; 0 if not blocked.
        block: usize,
    },
    /// Inputs: `x`, `shape` i64 (-1 inferred; 0 copies unless `allow_zero`).
    Reshape {
        /// A zero means zero.
        allow_zero: bool,
    },
    /// Inputs: `x`, `axes?` i64.
    Squeeze {
        /// Dimensions to drop; `None`: from the input, or all of size 1.
        axes: Option<Vec<i64>>,
    },
    /// Inputs: `x`, `axes?` i64.
    Unsqueeze {
        /// Dimensions of the output that are new; `None`: from the input.
        axes: Option<Vec<i64>>,
    },
    /// Inputs: `x`. Output: two-dimensional.
    Flatten {
        /// First dimension of the second output dimension.
        axis: i64,
    },
    /// Inputs: `x`. Output: `x`.
    Identity,
    /// Inputs: `x`.
    Transpose {
        /// Source dimension of each output dimension; `None` reverses.
        perm: Option<Vec<usize>>,
    },
    /// Inputs: one or more tensors.
    Concat {
        /// Negative counts from the end.
        axis: i64,
    },
    /// Inputs: `x`, `sizes?` i64. Outputs: the parts.
    Split {
        /// Negative counts from the end.
        axis: i64,
        /// Sizes of the parts; `None`: from the input, or equal parts.
        sizes: Option<Vec<i64>>,
    },
    /// Inputs: `x`, `starts`, `ends`, `axes?`, `steps?` (i64 or i32).
    Slice,
    /// Inputs: `x`, `indices` (i64 or i32, negative from the end).
    Gather {
        /// Negative counts from the end.
        axis: i64,
    },
    /// Inputs: `x`, `indices`.
    GatherNd {
        /// Leading dimensions that both share.
        batch_dims: usize,
    },
    /// Inputs: `x`, `indices` of x's rank.
    GatherElements {
        /// Negative counts from the end.
        axis: i64,
    },
    /// Inputs: `x`, `shape` i64, broadcast both ways.
    Expand,
    /// Inputs: `x`, `repeats` i64.
    Tile,
    /// Inputs: `x`, `pads` i64, `value?`, `axes?`.
    Pad {
        /// How the padding is filled.
        mode: PadMode,
    },
    /// Inputs: `shape` i64. Output: filled with `value` (one element).
    ConstantOfShape {
        /// The element.
        value: Tensor,
    },
    /// Inputs: `start`, `limit`, `delta`, scalars.
    Range,
    /// Inputs: `x`. Output: i64.
    Shape {
        /// First dimension; negative counts from the end.
        start: i64,
        /// Behind the last; `None` is the rank.
        end: Option<i64>,
    },
    /// Inputs: `x`. Output: i64 scalar, the number of elements.
    Size,
    /// Inputs: `x`. Output: i64 [rank, count]. The only operator whose output's shape depends on data.
    NonZero,
    /// Inputs: `x`, `axis` scalar.
    CumSum {
        /// The sum excludes the element itself.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// Inputs: `x`, `k?` i64 scalar.
    Trilu {
        /// Keep the upper triangle, else the lower.
        upper: bool,
    },
    /// Chooses a token for each row. ONNX has no such operator: Lenslet adds it behind a decoder's logits, so that one
    /// number a row leaves the device.
    ///
    /// Inputs: `logits` f32 \[batch, vocab\], `history?` i64 or i32 \[batch, n\], `params` f32 \[batch or 1,
    /// [`SAMPLE_PARAMS`]\], `recent?` i64 or i32 \[batch, m\]. Outputs: `token` i64 \[batch\], `log_probability`
    /// f32 \[batch\].
    ///
    /// `history` and `recent` hold the ids that the repetition penalty is for; there are two so that the tokens that
    /// the host knows and those that only the device knows yet need not be joined. Ids outside the vocabulary count for
    /// nothing: fill with -1. A row of `params` is the temperature, top-k (0: off), top-p (1: off), the repetition
    /// penalty (1: off) and a random number in 0..1; it is an input and no attribute so that nothing is planned or
    /// compiled again.
    ///
    /// The order is that of transformers' logits processors and warpers: repetition penalty, temperature, top-k,
    /// top-p, draw. Temperature 0 takes the largest logit, of equals the one with the lowest id. Equal logits stand or
    /// fall together: all that equal the last of the top k, or the last that is needed to reach top-p, stay. The draw
    /// takes the first token, by id, at which the probabilities summed up exceed the random number. Weights are whole
    /// multiples of 2^-31 of the largest and are summed exactly, so that backends differ only where their exponential
    /// function does.
    ///
    /// `log_probability` is that of the token under the logits as they came, without penalty and temperature. It is NaN
    /// (and the token 0) if a logit of the row is NaN or plus infinity, or if all are minus infinity.
    Sample,
}

/// Columns of the `params` of [`Op::Sample`].
pub const SAMPLE_PARAMS: usize = 5;

impl Op {
    /// The name that plans, reports and errors use.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Unary(u) => match u {
                Unary::Abs => "Abs",
                Unary::Neg => "Neg",
                Unary::Exp => "Exp",
                Unary::Log => "Log",
                Unary::Sqrt => "Sqrt",
                Unary::Reciprocal => "Reciprocal",
                Unary::Erf => "Erf",
                Unary::Tanh => "Tanh",
                Unary::Sigmoid => "Sigmoid",
                Unary::Relu => "Relu",
                Unary::Sin => "Sin",
                Unary::Cos => "Cos",
                Unary::Floor => "Floor",
                Unary::Ceil => "Ceil",
                Unary::Round => "Round",
                Unary::Sign => "Sign",
                Unary::Not => "Not",
                Unary::IsNan => "IsNaN",
                Unary::Clip { .. } => "Clip",
                Unary::LeakyRelu { .. } => "LeakyRelu",
                Unary::HardSigmoid { .. } => "HardSigmoid",
                Unary::HardSwish => "HardSwish",
                Unary::Gelu => "Gelu",
                Unary::GeluTanh => "GeluTanh",
                Unary::QuickGelu { .. } => "QuickGelu",
            },
            Op::Binary(b) => match b {
                Binary::Add => "Add",
                Binary::Sub => "Sub",
                Binary::Mul => "Mul",
                Binary::Div => "Div",
                Binary::Pow => "Pow",
                Binary::Mod => "Mod",
                Binary::Fmod => "Fmod",
                Binary::Min => "Min",
                Binary::Max => "Max",
                Binary::Equal => "Equal",
                Binary::Less => "Less",
                Binary::LessOrEqual => "LessOrEqual",
                Binary::Greater => "Greater",
                Binary::GreaterOrEqual => "GreaterOrEqual",
                Binary::And => "And",
                Binary::Or => "Or",
                Binary::Xor => "Xor",
            },
            Op::Where => "Where",
            Op::Cast { .. } => "Cast",
            Op::MatMul(_) => "MatMul",
            Op::MatMulInteger => "MatMulInteger",
            Op::MatMulIntegerToFloat(_) => "MatMulIntegerToFloat",
            Op::MatMulNBits(_) => "MatMulNBits",
            Op::GatherBlockQuantized(_) => "GatherBlockQuantized",
            Op::Conv(_) => "Conv",
            Op::ConvInteger(_) => "ConvInteger",
            Op::ConvIntegerToFloat(_) => "ConvIntegerToFloat",
            Op::Pool(p) => {
                if p.max {
                    "MaxPool"
                } else {
                    "AveragePool"
                }
            }
            Op::Norm(n) => {
                if n.rms {
                    "RmsNorm"
                } else {
                    "LayerNorm"
                }
            }
            Op::Attention(_) => "Attention",
            Op::GroupQueryAttention(_) => "GroupQueryAttention",
            Op::RotaryEmbedding(_) => "RotaryEmbedding",
            Op::Softmax { .. } => "Softmax",
            Op::Reduce { kind, .. } => match kind {
                Reduce::Mean => "ReduceMean",
                Reduce::Sum => "ReduceSum",
                Reduce::Max => "ReduceMax",
                Reduce::Min => "ReduceMin",
                Reduce::Prod => "ReduceProd",
                Reduce::L2 => "ReduceL2",
                Reduce::SumSquare => "ReduceSumSquare",
            },
            Op::ArgMax { min, .. } => {
                if *min {
                    "ArgMin"
                } else {
                    "ArgMax"
                }
            }
            Op::DynamicQuantizeLinear => "DynamicQuantizeLinear",
            Op::QuantizeLinear { .. } => "QuantizeLinear",
            Op::DequantizeLinear { .. } => "DequantizeLinear",
            Op::Reshape { .. } => "Reshape",
            Op::Squeeze { .. } => "Squeeze",
            Op::Unsqueeze { .. } => "Unsqueeze",
            Op::Flatten { .. } => "Flatten",
            Op::Identity => "Identity",
            Op::Transpose { .. } => "Transpose",
            Op::Concat { .. } => "Concat",
            Op::Split { .. } => "Split",
            Op::Slice => "Slice",
            Op::Gather { .. } => "Gather",
            Op::GatherNd { .. } => "GatherND",
            Op::GatherElements { .. } => "GatherElements",
            Op::Expand => "Expand",
            Op::Tile => "Tile",
            Op::Pad { .. } => "Pad",
            Op::ConstantOfShape { .. } => "ConstantOfShape",
            Op::Range => "Range",
            Op::Shape { .. } => "Shape",
            Op::Size => "Size",
            Op::NonZero => "NonZero",
            Op::CumSum { .. } => "CumSum",
            Op::Trilu { .. } => "Trilu",
            Op::Sample => "Sample",
        }
    }

    /// Whether the output holds the input's elements in the same order under another shape, so that no kernel runs.
    pub fn is_alias(&self) -> bool {
        matches!(
            self,
            Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. } | Op::Identity
        )
    }

    /// Whether the output's shape can only be known by running.
    pub fn has_data_dependent_shape(&self) -> bool {
        matches!(self, Op::NonZero)
    }
}
