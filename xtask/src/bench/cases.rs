//! The graphs that are measured, and what their rows are called.

use super::models::Graph;

/// Something to measure: a graph and its inputs' sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    /// Model and input.
    label: &'static str,
    pub(super) graph: Graph,
    pub(super) precision: Precision,
    pub(super) batch: usize,
    /// Sizes that the graph leaves open, by their names there, except the batch.
    sizes: &'static [(&'static str, usize)],
    /// Multiply-adds of all products of matrices and convolutions, for one row of the batch.
    multiply_adds: u64,
}

/// Which file of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Fp32,
    /// Dynamic INT8, as the hub's `_quantized` files.
    Int8,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Int8 => "int8",
        }
    }
}

const PICTURE: &[(&str, usize)] = &[("num_channels", 3), ("height", 224), ("width", 224)];

/// A model, what goes in, batches, and multiply-adds for one of it.
type Model = (&'static str, Graph, &'static [(&'static str, usize)], &'static [usize], u64);

const MODELS: &[Model] = &[
    ("clip-b32 image", Graph("clip-vit-base-patch32", "vision_model"), PICTURE, &[1, 8], 4_408_811_520),
    ("clip-b32 text16", Graph("clip-vit-base-patch32", "text_model"), &[("sequence_length", 16)], &[1], 607_387_648),
    ("clip-b32 text77", Graph("clip-vit-base-patch32", "text_model"), &[("sequence_length", 77)], &[1], 2_979_770_368),
    ("minilm 128", Graph("all-MiniLM-L6-v2", "model"), &[("sequence_length", 128)], &[1], 1_434_451_968),
    ("resnet50", Graph("resnet-50", "model"), PICTURE, &[1], 4_089_184_256),
    // Its pictures always have 256 by 256 pixels.
    ("mobileclip-s0 image", Graph("mobileclip-s0", "vision_model"), &[], &[1], 2_385_149_952),
];

/// All rows, in order.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(label, graph, sizes, batches, multiply_adds) in MODELS {
        for &batch in batches {
            for precision in [Precision::Fp32, Precision::Int8] {
                cases.push(Case { label, graph, precision, batch, sizes, multiply_adds });
            }
        }
    }
    cases
}

impl Case {
    /// What its rows are called, whichever the device.
    pub(super) fn name(&self) -> String {
        let batch = if self.batch > 1 { format!(" b{}", self.batch) } else { String::new() };
        format!("{} {}{batch}", self.label, self.precision.name())
    }

    /// The inputs' sizes as `NAME=SIZE`.
    pub(super) fn sizes(&self) -> Vec<String> {
        let batch = ("batch_size", self.batch);
        std::iter::once(&batch).chain(self.sizes).map(|(name, size)| format!("{name}={size}")).collect()
    }

    /// Multiply-adds of a run.
    pub(super) fn multiply_adds(&self) -> u64 {
        self.multiply_adds * self.batch as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_names_that_scripts_know() {
        let mut wanted = Vec::new();
        for (label, batch) in [
            ("clip-b32 image", ""),
            ("clip-b32 image", " b8"),
            ("clip-b32 text16", ""),
            ("clip-b32 text77", ""),
            ("minilm 128", ""),
            ("resnet50", ""),
            ("mobileclip-s0 image", ""),
        ] {
            wanted.extend(["fp32", "int8"].map(|precision| format!("{label} {precision}{batch}")));
        }
        assert_eq!(all().iter().map(Case::name).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_batch_is_a_size_and_more_work() {
        let [one, eight] = [1, 8].map(|batch| all().into_iter().find(|case| case.batch == batch).unwrap());
        assert_eq!(eight.sizes(), ["batch_size=8", "num_channels=3", "height=224", "width=224"]);
        assert_eq!(eight.multiply_adds(), 8 * one.multiply_adds());
    }
}
