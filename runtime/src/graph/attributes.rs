//! What operators are told beside their inputs: one struct or enum an operator.
//!
//! The doc comments define each operator's meaning and the order of its inputs.

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// |x|
    Abs,
    /// -x
    Neg,
    /// e^x
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// 1 / x
    Reciprocal,
    /// Gauss error function.
    Erf,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// max(x, 0)
    Relu,
    /// Sine of x radians.
    Sin,
    /// Cosine of x radians.
    Cos,
    /// Largest whole number not above x.
    Floor,
    /// Smallest whole number not below x.
    Ceil,
    /// Nearest whole number, halves to even.
    Round,
    /// -1, 0 or 1.
    Sign,
    /// Logical not; bool to bool.
    Not,
    /// Whether x is not a number; float to bool.
    IsNan,
    /// min(max(x, min), max)
    Clip {
        /// Least value.
        min: f32,
        /// Greatest value.
        max: f32,
    },
    /// x if x >= 0, else slope * x
    LeakyRelu {
        /// Factor below zero.
        slope: f32,
    },
    /// max(0, min(1, alpha * x + beta))
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// x * max(0, min(1, x / 6 + 0.5))
    HardSwish,
    /// 0.5 x (1 + erf(x / sqrt 2)), Hendrycks and Gimpel 2016, exact form.
    Gelu,
    /// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the same paper's approximation.
    GeluTanh,
    /// x * sigmoid(alpha * x): QuickGELU with 1.702, SiLU (swish) with 1.
    QuickGelu {
        /// Factor inside the sigmoid.
        alpha: f32,
    },
}

/// A function of two numbers, with NumPy broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
    /// a / b; integers truncate towards zero.
    Div,
    /// a ^ b, in the type of a.
    Pow,
    /// Remainder with the sign of the divisor.
    Mod,
    /// Remainder with the sign of the dividend (C's fmod).
    Fmod,
    /// The smaller.
    Min,
    /// The larger.
    Max,
    /// a = b; bool result, as for the next four.
    Equal,
    /// a < b
    Less,
    /// a <= b
    LessOrEqual,
    /// a > b
    Greater,
    /// a >= b
    GreaterOrEqual,
    /// Logical and of bools.
    And,
    /// Logical or of bools.
    Or,
    /// Logical exclusive or of bools.
    Xor,
}

impl Binary {
    /// Whether the result is bool whatever the operands are.
    pub const fn is_predicate(self) -> bool {
        use Binary::*;
        matches!(self, Equal | Less | LessOrEqual | Greater | GreaterOrEqual | And | Or | Xor)
    }
}

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// Arithmetic mean.
    Mean,
    /// Sum.
    Sum,
    /// Maximum.
    Max,
    /// Minimum.
    Min,
    /// Product.
    Prod,
    /// Euclidean norm.
    L2,
    /// Sum of squares.
    SumSquare,
}

/// `y = activation(alpha * op(a) @ op(b) + bias) + residual`, batched, with NumPy broadcasting of batch dimensions.
///
/// Inputs: `a` [..., M, K] f32, `b` [..., K, N] f32 or f16 (f16 only as a constant), `bias?` \[N\] f32, `residual?` of the
/// output's shape. One-dimensional operands follow `numpy.matmul`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatMul {
    /// Factor on the product.
    pub alpha: f32,
    /// `a` is [..., K, M].
    pub trans_a: bool,
    /// `b` is [..., N, K].
    pub trans_b: bool,
    /// Applied after the bias.
    pub activation: Option<Unary>,
}

impl Default for MatMul {
    fn default() -> Self {
        MatMul { alpha: 1.0, trans_a: false, trans_b: false, activation: None }
    }
}

/// `y = activation(a_scale * b_scale * (a - a_zero) @ (b - b_zero) + bias) + residual` with an exact i32 product.
///
/// Inputs: `a` [..., M, K] u8 or i8, `b` [..., K, N] u8 or i8, `a_scale` f32 scalar or \[1\], `b_scale` f32 scalar, \[1\] or
/// \[N\], `a_zero?` of a's type (scalar or \[1\]), `b_zero?` of b's type (scalar, \[1\] or \[N\]), `bias?` \[N\] f32, `residual?`.
/// As ONNX Runtime: the scales are multiplied with each other first, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct MatMulIntegerToFloat {
    /// Applied after the bias.
    pub activation: Option<Unary>,
}

/// A product with weights of `bits` bits in blocks along K that share a scale (`com.microsoft.MatMulNBits`).
///
/// Inputs: `a` [..., M, K] f32, `b` u8 [N, ceil(K / block), block * bits / 8] (low bits first), `scales` f32 or f16
/// [N, ceil(K / block)] (any shape with as many elements), `zero_points?` u8 [N, ceil(ceil(K / block) * bits / 8)] packed
/// as b is, or of the scales' type and shape; absent means 2^(bits - 1). `bias?` \[N\] f32, `residual?`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatMulNBits {
    /// 4 or 8.
    pub bits: u32,
    /// Elements along K that share a scale; a power of two of at least 16.
    pub block: usize,
    /// Rows of the product's inner dimension.
    pub k: usize,
    /// Columns of the output.
    pub n: usize,
    /// Applied after the bias.
    pub activation: Option<Unary>,
}

/// Rows of a table in blocks of quantized numbers, dequantized as they are read (`com.microsoft.GatherBlockQuantized`).
///
/// Inputs: `data` u8 packed low nibble first (4 bits: the last dimension is halved), `indices` i64 or i32, `scales` f32 or
/// f16, `zero_points?` packed as data; absent means 2^(bits - 1) for unsigned data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherBlockQuantized {
    /// 4 or 8.
    pub bits: u32,
    /// Elements along `quantize_axis` that share a scale.
    pub block: usize,
    /// The dimension that the indices select from.
    pub gather_axis: usize,
    /// The dimension that blocks run along.
    pub quantize_axis: usize,
}

/// The window of a convolution or a pooling, over any number of spatial dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Steps of the window.
    pub strides: Vec<usize>,
    /// Distances between the window's elements.
    pub dilations: Vec<usize>,
    /// Padding before each spatial dimension, then after each.
    pub pads: Padding,
}

/// How a window's padding is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// All the beginnings, then all the ends.
    Explicit(Vec<usize>),
    /// So that the output is ceil(input / stride); an odd element goes to the end.
    SameUpper,
    /// The same with an odd element at the beginning.
    SameLower,
}

impl Window {
    /// Beginning and end padding of spatial dimension `i` for an input of `input` and a kernel of `kernel` elements.
    pub fn pads_of(&self, i: usize, input: usize, kernel: usize) -> (usize, usize) {
        let same = |upper: bool| {
            let out = input.div_ceil(self.strides[i]);
            let span = (kernel.max(1) - 1) * self.dilations[i] + 1;
            let total = (out.max(1) - 1) * self.strides[i] + span;
            let total = total.saturating_sub(input);
            let small = total / 2;
            if upper { (small, total - small) } else { (total - small, small) }
        };
        match &self.pads {
            Padding::Explicit(p) => (p[i], p[i + p.len() / 2]),
            Padding::SameUpper => same(true),
            Padding::SameLower => same(false),
        }
    }

    /// The output size of spatial dimension `i`, or `None` when the window does not fit the padded input.
    pub fn output_of(&self, i: usize, input: usize, kernel: usize, ceil: bool) -> Option<usize> {
        let (before, after) = self.pads_of(i, input, kernel);
        let span = (kernel.checked_sub(1)?) * self.dilations[i] + 1;
        let room = (input + before + after).checked_sub(span)?;
        let stride = self.strides[i];
        let mut out = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        // With ceil, the last window must start inside the input or its beginning padding.
        if ceil && (out - 1) * stride >= input + before {
            out -= 1;
        }
        Some(out)
    }
}

/// `y = activation(conv(x, w) + bias) + residual`, and `max(y, 0)` with `relu`.
///
/// Inputs: `x` [N, C, spatial...] f32, `w` [M, C / groups, kernel...] f32 or f16, `bias?` \[M\] f32, `residual?` of the
/// output's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Channel groups.
    pub groups: usize,
    /// Strides, dilations, padding.
    pub window: Window,
    /// Applied after the bias.
    pub activation: Option<Unary>,
    /// A Relu follows the residual, as in residual networks.
    pub relu: bool,
}

/// An exact integer convolution: `y = conv(x - x_zero, w - w_zero)` as i32; padding stands for x_zero.
///
/// Inputs: `x` u8 or i8, `w` u8 or i8, `x_zero?` scalar, `w_zero?` scalar or \[M\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvInteger {
    /// Channel groups.
    pub groups: usize,
    /// Strides, dilations, padding.
    pub window: Window,
}

/// `y = activation(x_scale * w_scale * conv(x - x_zero, w - w_zero) + bias) + residual`, the convolution exact in i32; `max(y, 0)`
/// with `relu`.
///
/// Inputs: `x`, `w`, `x_scale` scalar, `w_scale` scalar or \[M\], `x_zero?`, `w_zero?`, `bias?` \[M\] f32, `residual?`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvIntegerToFloat {
    /// Channel groups.
    pub groups: usize,
    /// Strides, dilations, padding.
    pub window: Window,
    /// Applied after the bias.
    pub activation: Option<Unary>,
    /// A Relu follows the residual, as in residual networks.
    pub relu: bool,
}

/// The largest or the mean of a window. Input: `x` [N, C, spatial...] f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Maximum, else average.
    pub max: bool,
    /// Window sizes.
    pub kernel: Vec<usize>,
    /// Strides, dilations, padding.
    pub window: Window,
    /// Round output sizes up.
    pub ceil: bool,
    /// For an average: padded elements count as zeros.
    pub count_include_pad: bool,
}

/// LayerNorm (Ba et al. 2016), or RMSNorm (Zhang and Sennrich 2019) when `rms`, over the dimensions from `axis` on.
///
/// Inputs: `x`, `gamma?` and `beta?` of the normalised shape. Outputs: `y`, `mean?`, `inv_std?` (the last two as in ONNX:
/// the shape of x with the normalised dimensions set to 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// First normalised dimension; negative counts from the end.
    pub axis: i64,
    /// Added to the variance (or the mean square).
    pub epsilon: f32,
    /// No mean is subtracted.
    pub rms: bool,
}

/// How the rows of queries, keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadLayout {
    /// [batch, sequence, heads * head_size]
    Merged,
    /// [batch, heads, sequence, head_size]
    Split,
    /// [batch, heads, head_size, sequence], as exporters transpose keys for a MatMul.
    SplitTransposed,
}

/// Scaled dot-product attention (Vaswani et al. 2017), grouped (Ainslie et al. 2023) when `kv_heads < heads`.
///
/// `y = softmax(scale * q k^T + bias + causal mask) v`, the scores in f32.
///
/// Inputs: `q`, `k`, `v` (f32, in the layouts below), `bias?` f32 that broadcasts to [batch, heads, queries, keys],
/// `key_lengths?` i32 \[batch\] (keys from there on are masked), `past_k?`, `past_v?` [batch, kv_heads, past, head_size].
/// Outputs: `y` ([batch, queries, heads * v_head_size] when `merged_output`, else [batch, heads, queries, v_head_size]),
/// `present_k?`, `present_v?` [batch, kv_heads, past + keys, head_size].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Factor on the scores; `None` means 1 / sqrt(head_size).
    pub scale: Option<f32>,
    /// Query i of S sees keys up to T - S + i only.
    pub causal: bool,
    /// Layout of q.
    pub q_layout: HeadLayout,
    /// Layout of k.
    pub k_layout: HeadLayout,
    /// Layout of v.
    pub v_layout: HeadLayout,
    /// Write y as [batch, queries, heads * v_head_size].
    pub merged_output: bool,
    /// A row whose scores are all masked gives zeros, not NaN (the exporter's IsNaN guard).
    pub zero_masked_rows: bool,
}

/// `com.microsoft.GroupQueryAttention`: causal grouped attention with its cache, rotary embedding inside if asked.
///
/// Inputs: `q` [B, S, heads * D] (or packed with k and v: [B, S, (heads + 2 kv_heads) * D], then k and v are absent),
/// `k?`, `v?` [B, S, kv_heads * D], `past_k?`, `past_v?` [B, kv_heads, P, D], `seqlens_k` i32 \[B\] (total length of each row
/// minus one), `total_sequence_length` i32 scalar, `cos_cache?`, `sin_cache?` [max, rotary / 2].
/// Outputs: `y` [B, S, heads * D], `present_k`, `present_v` [B, kv_heads, max(P, total), D].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupQueryAttention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of the keys and values.
    pub kv_heads: usize,
    /// Factor on the scores; `None` means 1 / sqrt(head_size).
    pub scale: Option<f32>,
    /// softcap * tanh(score / softcap) when not zero.
    pub softcap: f32,
    /// Keys further back than this are masked.
    pub window: Option<usize>,
    /// Rotate q and k by the caches.
    pub rotary: bool,
    /// Pairs are neighbours, else halves.
    pub rotary_interleaved: bool,
}

/// Rotary position embedding (Su et al. 2021).
///
/// Inputs: `x` [B, S, heads * D] or [B, heads, S, D] f32, `position_ids` i64 \[1\] (an offset) or [B, S], `cos`, `sin`
/// [max, rotary / 2].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RotaryEmbedding {
    /// Heads, when x is three-dimensional; 0 if unknown.
    pub heads: usize,
    /// Elements of a head that are rotated; 0 means all.
    pub rotary_dim: usize,
    /// Pairs are neighbours, else halves.
    pub interleaved: bool,
}

/// How [`super::Op::Pad`] fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PadMode {
    /// With one value.
    Constant,
    /// Mirrored without the edge.
    Reflect,
    /// With the edge.
    Edge,
}
