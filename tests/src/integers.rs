//! Products of 8-bit integers: whatever computes them, the 32-bit sums are equal bit for bit.
//!
//! Each case is a model of one node and the result of the plain loops here, over shapes that fit no kernel's tiles and over
//! the numbers at both ends of the types, where a kernel that adds in 16 bits would saturate.

use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::plan::Place;
use lenslet::tensor::{DType, Tensor};
use lenslet::{Session, SessionOptions};

use crate::onnx::{Attribute, OneNode};
use crate::random::Random;

/// A model of one node, what goes in and what must come out.
pub struct Case {
    /// What it is.
    pub name: String,
    model: Vec<u8>,
    inputs: Vec<(&'static str, Tensor)>,
    want: Tensor,
}

/// Where the numbers of a case lie in their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Anywhere.
    Any,
    /// At its ends only.
    Ends,
    /// At the end with the greatest magnitude only, so that nothing cancels.
    Greatest,
}

const NUMBERS: [Numbers; 3] = [Numbers::Any, Numbers::Ends, Numbers::Greatest];

/// 8-bit numbers with their type.
#[derive(Clone)]
struct Bytes {
    signed: bool,
    values: Vec<i32>,
}

impl Bytes {
    fn new(random: &mut Random, signed: bool, numbers: Numbers, count: usize) -> Self {
        let (low, high) = if signed { (-128, 127) } else { (0, 255) };
        let value = |random: &mut Random| match numbers {
            Numbers::Any => random.within(low, high),
            Numbers::Ends => [low, high][random.within(0, 1) as usize],
            Numbers::Greatest if signed => low,
            Numbers::Greatest => high,
        };
        Bytes { signed, values: (0..count).map(|_| value(random) as i32).collect() }
    }

    fn tensor(&self, shape: &[usize]) -> Tensor {
        let bytes: Vec<u8> = self.values.iter().map(|&v| v as u8).collect();
        let dtype = if self.signed { DType::I8 } else { DType::U8 };
        Tensor::from_bytes(dtype, shape, &bytes).expect("as many numbers as the shape has")
    }

    fn kind(&self) -> &'static str {
        if self.signed { "s8" } else { "u8" }
    }
}

/// `batch` products of \[m,k\] and \[k,n\].
struct Product {
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
}

impl Product {
    /// The sums, less the zero points: one for the left side, one or one a column for the right.
    fn sums(&self, a: &Bytes, b: &Bytes, a_zero: i32, b_zero: &[i32]) -> Vec<i32> {
        let mut out = Vec::with_capacity(self.batch * self.m * self.n);
        for row in 0..self.batch * self.m {
            for column in 0..self.n {
                let zero = b_zero[column % b_zero.len()];
                let terms =
                    (0..self.k).map(|k| (a.values[row * self.k + k] - a_zero) * (b.values[k * self.n + column] - zero));
                out.push(terms.sum());
            }
        }
        out
    }

    fn random(random: &mut Random, greatest_k: i64) -> Self {
        let mut size = |high| random.within(1, high) as usize;
        Product { batch: size(2), m: size(40), k: size(greatest_k), n: size(70) }
    }
}

fn matmul_integer(random: &mut Random, numbers: Numbers, constant: bool, product: Product) -> Case {
    let Product { batch, m, k, n } = product;
    let signed = [random.within(0, 1) == 1, random.within(0, 1) == 1];
    let a = Bytes::new(random, signed[0], numbers, batch * m * k);
    let b = Bytes::new(random, signed[1], numbers, k * n);
    let a_zero = Bytes::new(random, signed[0], Numbers::Any, 1);
    let per_column = random.within(0, 1) == 1;
    let b_zero = Bytes::new(random, signed[1], Numbers::Any, if per_column { n } else { 1 });
    let sums = product.sums(&a, &b, a_zero.values[0], &b_zero.values);

    let (left, right) = (a.tensor(&[batch, m, k]), b.tensor(&[k, n]));
    let columns = [n];
    let (az, bz) = (a_zero.tensor(&[]), b_zero.tensor(if per_column { &columns } else { &[] }));
    let mut fed = vec![("a", &left), ("a_zero", &az)];
    let mut weights = vec![("b_zero", &bz)];
    let side = if constant { &mut weights } else { &mut fed };
    side.push(("b", &right));
    let model = OneNode {
        domain: "",
        op: "MatMulInteger",
        inputs: &["a", "b", "a_zero", "b_zero"],
        fed: &fed,
        weights: &weights,
        attributes: &[],
        output: (DType::I32, 3),
    }
    .model();
    Case {
        name: format!(
            "MatMulInteger {} x {}, [{batch},{m},{k}] x [{k},{n}], {numbers:?}, {} weights, {} zero points",
            a.kind(),
            b.kind(),
            if constant { "constant" } else { "given" },
            b_zero.values.len()
        ),
        model,
        inputs: fed.iter().map(|&(name, t)| (name, t.clone())).collect(),
        want: Tensor::from_slice(&[batch, m, n], &sums).expect("a sum for each place"),
    }
}

fn matmul_integer_to_float(random: &mut Random, numbers: Numbers) -> Case {
    // So few terms that each sum is a float exactly: then the scales, powers of two, cannot round either.
    let product = Product::random(random, 128);
    let Product { batch, m, k, n } = product;
    let signed = random.within(0, 1) == 1;
    let a = Bytes::new(random, false, numbers, batch * m * k);
    let b = Bytes::new(random, signed, numbers, k * n);
    let (a_zero, b_zero) = (Bytes::new(random, false, Numbers::Any, 1), Bytes::new(random, signed, Numbers::Any, 1));
    let sums = product.sums(&a, &b, a_zero.values[0], &b_zero.values);
    let (left, right) = (a.tensor(&[batch, m, k]), b.tensor(&[k, n]));
    let (az, bz) = (a_zero.tensor(&[]), b_zero.tensor(&[]));
    let (a_scale, b_scale) = (Tensor::scalar(0.5f32), Tensor::scalar(0.25f32));
    let fed = [("a", &left), ("a_zero", &az), ("a_scale", &a_scale)];
    let model = OneNode {
        domain: "com.microsoft",
        op: "MatMulIntegerToFloat",
        inputs: &["a", "b", "a_scale", "b_scale", "a_zero", "b_zero"],
        fed: &fed,
        weights: &[("b", &right), ("b_scale", &b_scale), ("b_zero", &bz)],
        attributes: &[],
        output: (DType::F32, 3),
    }
    .model();
    let want: Vec<f32> = sums.iter().map(|&s| s as f32 * 0.125).collect();
    Case {
        name: format!("MatMulIntegerToFloat u8 x {}, [{batch},{m},{k}] x [{k},{n}], {numbers:?}", b.kind()),
        model,
        inputs: fed.iter().map(|&(name, t)| (name, t.clone())).collect(),
        want: Tensor::from_slice(&[batch, m, n], &want).expect("a sum for each place"),
    }
}

fn conv_integer(random: &mut Random, numbers: Numbers) -> Case {
    let mut size = |low, high| random.within(low, high) as usize;
    let (batch, group, channels, filters) = (size(1, 2), size(1, 3), size(1, 9), size(1, 11));
    let (kernel, stride, pad, dilation) = (size(1, 3), size(1, 2), size(0, 2), size(1, 2));
    let (height, width) = (size(5, 12), size(5, 12));
    let signed = random.within(0, 1) == 1;
    let (c, f) = (channels * group, filters * group);
    let x = Bytes::new(random, false, numbers, batch * c * height * width);
    let w = Bytes::new(random, signed, numbers, f * channels * kernel * kernel);
    let (x_zero, w_zero) = (Bytes::new(random, false, Numbers::Any, 1), Bytes::new(random, signed, Numbers::Any, 1));
    let out = |size: usize| (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
    let (rows, columns) = (out(height), out(width));

    let mut sums = Vec::with_capacity(batch * f * rows * columns);
    for (image, filter) in (0..batch).flat_map(|i| (0..f).map(move |f| (i, f))) {
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let mut sum = 0;
            for (channel, at) in (0..channels).flat_map(|c| (0..kernel * kernel).map(move |at| (c, at))) {
                let y = (row * stride + at / kernel * dilation).wrapping_sub(pad);
                let z = (column * stride + at % kernel * dilation).wrapping_sub(pad);
                // The padding is the zero point: nothing.
                if y < height && z < width {
                    let plane = image * c + filter / filters * channels + channel;
                    let left = x.values[(plane * height + y) * width + z] - x_zero.values[0];
                    let right = w.values[(filter * channels + channel) * kernel * kernel + at] - w_zero.values[0];
                    sum += left * right;
                }
            }
            sums.push(sum);
        }
    }
    let (input, weight) = (x.tensor(&[batch, c, height, width]), w.tensor(&[f, channels, kernel, kernel]));
    let (xz, wz) = (x_zero.tensor(&[]), w_zero.tensor(&[]));
    let fed = [("x", &input), ("x_zero", &xz)];
    let pair = |n: usize| Attribute::Ints(vec![n as i64; 2]);
    let model = OneNode {
        domain: "",
        op: "ConvInteger",
        inputs: &["x", "w", "x_zero", "w_zero"],
        fed: &fed,
        weights: &[("w", &weight), ("w_zero", &wz)],
        attributes: &[
            ("group", Attribute::Int(group as i64)),
            ("kernel_shape", pair(kernel)),
            ("strides", pair(stride)),
            ("dilations", pair(dilation)),
            ("pads", Attribute::Ints(vec![pad as i64; 4])),
        ],
        output: (DType::I32, 4),
    }
    .model();
    Case {
        name: format!(
            "ConvInteger u8 x {}, [{batch},{c},{height},{width}] by {f} filters of {kernel}, {group} groups, stride {stride}, pad {pad}, dilation {dilation}, {numbers:?}",
            w.kind()
        ),
        model,
        inputs: fed.iter().map(|&(name, t)| (name, t.clone())).collect(),
        want: Tensor::from_slice(&[batch, f, rows, columns], &sums).expect("a sum for each place"),
    }
}

/// The cases: `rounds` of each operator, ends of the types and constancy of the weights.
pub fn cases(rounds: usize) -> Vec<Case> {
    let mut random = Random::new(2026);
    let mut out = Vec::new();
    for _ in 0..rounds {
        for numbers in NUMBERS {
            for constant in [true, false] {
                let product = Product::random(&mut random, 300);
                out.push(matmul_integer(&mut random, numbers, constant, product));
            }
            out.push(matmul_integer_to_float(&mut random, numbers));
            out.push(conv_integer(&mut random, numbers));
        }
    }
    // One row, as in decoding, and sums that are as long as those of a large model.
    for (m, k, n) in [(1, 1, 1), (1, 3072, 33), (3, 4100, 5)] {
        out.push(matmul_integer(&mut random, Numbers::Greatest, true, Product { batch: 1, m, k, n }));
        out.push(matmul_integer(&mut random, Numbers::Any, true, Product { batch: 1, m, k, n }));
    }
    out
}

impl Case {
    /// Runs the case. Returns whether the operator ran on the GPU.
    ///
    /// # Errors
    /// Says where the first difference is.
    pub async fn run(&self, options: &SessionOptions) -> Result<bool, String> {
        let session = Session::from_onnx(&self.model, &NoExternalData, &ImportOptions::default(), options.clone())
            .map_err(|e| e.to_string())?;
        let outputs = session.run_async(&self.inputs).await.map_err(|e| e.to_string())?;
        let got = &outputs.first().ok_or("there is no output")?.1;
        if got.dtype() != self.want.dtype() || got.shape() != self.want.shape() {
            return Err(format!("the output is {} {:?}", got.dtype(), got.shape()));
        }
        let words = |t: &Tensor| -> Vec<[u8; 4]> {
            t.bytes().chunks_exact(4).map(|b| b.try_into().unwrap_or_default()).collect()
        };
        let (got, want) = (words(got), words(&self.want));
        if let Some(at) = got.iter().zip(&want).position(|(g, w)| g != w) {
            let show = |bytes| match self.want.dtype() {
                DType::F32 => f32::from_le_bytes(bytes).to_string(),
                _ => i32::from_le_bytes(bytes).to_string(),
            };
            let wrong = got.iter().zip(&want).filter(|(g, w)| g != w).count();
            return Err(format!(
                "element {at} is {} instead of {}; {wrong} of {} differ",
                show(got[at]),
                show(want[at]),
                want.len()
            ));
        }
        let shapes: Vec<_> = session
            .inputs()
            .iter()
            .filter_map(|info| self.inputs.iter().find(|(name, _)| *name == &*info.name))
            .map(|(_, t)| (t.dtype(), t.shape().to_vec()))
            .collect();
        let report = session.report(&shapes).map_err(|e| e.to_string())?;
        Ok(report.nodes.iter().any(|node| node.place == Place::Gpu))
    }
}
