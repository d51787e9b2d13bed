//! Full-size graphs with seeded weights, against the numbers that ONNX Runtime gave (`check.json` beside the skeletons).

use std::collections::BTreeMap;

use lenslet::Session;
use lenslet::tensor::{DType, Tensor};
use serde::Deserialize;

use crate::random::{normal, splitmix};

/// Of the mean magnitude: how far the mean magnitude and the first numbers may be off.
const TOLERANCE: f64 = 1e-2;

/// An input and how it is made.
#[derive(Debug, Clone, Deserialize)]
struct InputRecipe {
    dtype: String,
    shape: Vec<usize>,
    fill: String,
    #[serde(default)]
    set: Vec<(usize, i64)>,
}

/// What is known of an output.
#[derive(Debug, Clone, Deserialize)]
struct Known {
    shape: Vec<usize>,
    mean: f64,
    abs_mean: f64,
    first: Vec<f64>,
}

/// What a full-size graph takes and gives.
#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    inputs: BTreeMap<String, InputRecipe>,
    outputs: BTreeMap<String, Known>,
}

impl Check {
    /// Reads the part of a `check.json` that is about one graph.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn parse(json: &[u8], graph: &str) -> Result<Self, String> {
        let mut all: BTreeMap<String, Check> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        all.remove(graph).filter(|c| !c.outputs.is_empty()).ok_or_else(|| format!("there is nothing about {graph}"))
    }

    /// Runs the graph and compares. Returns the worst deviation, as a part of the mean magnitude.
    ///
    /// # Errors
    /// Says what differs.
    pub async fn run(&self, session: &Session) -> Result<f64, String> {
        let inputs = self
            .inputs
            .iter()
            .map(|(name, recipe)| Ok((name.as_str(), recipe.tensor()?)))
            .collect::<Result<Vec<_>, String>>()?;
        let outputs = session.run_async(&inputs).await.map_err(|e| e.to_string())?;
        let mut worst = 0f64;
        for (name, known) in &self.outputs {
            let (_, tensor) = outputs.iter().find(|(n, _)| **n == **name).ok_or(format!("no output {name}"))?;
            if tensor.shape() != known.shape {
                return Err(format!("{name} is {:?} instead of {:?}", tensor.shape(), known.shape));
            }
            let numbers: Vec<f64> = tensor
                .to_f32_vec()
                .ok_or(format!("{name} is {}", tensor.dtype()))?
                .into_iter()
                .map(f64::from)
                .collect();
            let count = numbers.len() as f64;
            let mean = numbers.iter().sum::<f64>() / count;
            let abs_mean = numbers.iter().map(|x| x.abs()).sum::<f64>() / count;
            let off = [(abs_mean, known.abs_mean), (mean, known.mean)].into_iter();
            let off = off.chain(numbers.iter().copied().zip(known.first.iter().copied()));
            for (got, want) in off {
                let deviation = (got - want).abs() / known.abs_mean;
                // A NaN must fail too.
                if deviation.is_nan() || deviation > TOLERANCE {
                    return Err(format!("{name}: {got} instead of {want}"));
                }
                worst = worst.max(deviation);
            }
        }
        Ok(worst)
    }
}

impl InputRecipe {
    fn tensor(&self) -> Result<Tensor, String> {
        let count: usize = self.shape.iter().product();
        let last = self.shape.last().copied().unwrap_or(1).max(1);
        let bad = || format!("cannot make an input of {self:?}");
        let parts: Vec<&str> = self.fill.split(':').collect();
        let seed = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let mut values: Vec<f64> = match parts[..] {
            ["normal", s] => {
                let s = seed(s)?;
                (0..count as u64).map(|i| f64::from(normal(s, i, 0.0, 1.0))).collect()
            }
            ["randint", low, high, s] => {
                let (low, high, s) = (seed(low)?, seed(high)?, seed(s)?);
                (0..count as u64).map(|i| (low + splitmix(s, i) % (high - low)) as f64).collect()
            }
            ["ones"] => vec![1.0; count],
            ["zeros"] => vec![0.0; count],
            ["arange"] => (0..count).map(|i| (i % last) as f64).collect(),
            _ => return Err(bad()),
        };
        for &(at, value) in &self.set {
            *values.get_mut(at).ok_or_else(bad)? = value as f64;
        }
        let tensor = match self.dtype.as_str() {
            "float32" => Tensor::from_slice(&self.shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
            "int64" => Tensor::from_slice(&self.shape, &values.iter().map(|&v| v as i64).collect::<Vec<_>>()),
            "bool" => {
                let bytes: Vec<u8> = values.iter().map(|&v| u8::from(v != 0.0)).collect();
                Tensor::from_bytes(DType::Bool, &self.shape, &bytes)
            }
            _ => return Err(bad()),
        };
        tensor.map_err(|e| e.to_string())
    }
}
