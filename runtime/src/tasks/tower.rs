//! The seam between tasks and whatever runs a graph: the only place where they meet.
//!
//! A task hands over named arrays and awaits named arrays. It does not know backends, plans or
//! threads, and never blocks: in a browser the answer of a GPU arrives in a later turn of the event
//! loop.

use std::error::Error;
use std::future::Future;

use crate::tensor::{Bool, DType, Tensor};

/// An array in host memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum HostArray {
    /// 32-bit floats.
    F32 {
        /// Values in the order of `shape`.
        data: Vec<f32>,
        /// Length of each dimension.
        shape: Vec<usize>,
    },
    /// 64-bit integers: ids and masks.
    I64 {
        /// Values in the order of `shape`.
        data: Vec<i64>,
        /// Length of each dimension.
        shape: Vec<usize>,
    },
}

impl HostArray {
    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32 { shape, .. } | Self::I64 { shape, .. } => shape,
        }
    }

    /// The values and the shape, if they are floats.
    pub fn as_f32(&self) -> Option<(&[f32], &[usize])> {
        match self {
            Self::F32 { data, shape } => Some((data, shape)),
            Self::I64 { .. } => None,
        }
    }
}

/// What a graph says when it fails.
pub type TowerFailure = Box<dyn Error + Send + Sync>;

/// A loaded graph, ready to run.
pub trait Tower {
    /// Names of the graph's inputs.
    fn inputs(&self) -> &[String];

    /// Names of the graph's outputs.
    fn outputs(&self) -> &[String];

    /// Runs the graph on all of its inputs and returns the outputs named in `outputs`.
    ///
    /// Integers arrive as `i64` and floats as `f32`; a graph that was exported with other types
    /// converts them here.
    fn run(
        &self,
        inputs: Vec<(String, HostArray)>,
        outputs: &[&str],
    ) -> impl Future<Output = Result<Vec<(String, HostArray)>, TowerFailure>>;
}

/// A [`Session`](crate::Session) as a tower.
pub struct SessionTower {
    session: crate::Session,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl SessionTower {
    /// Wraps a session.
    pub fn new(session: crate::Session) -> Self {
        let names = |list: &[crate::TensorInfo]| list.iter().map(|info| info.name.to_string()).collect();
        SessionTower { inputs: names(session.inputs()), outputs: names(session.outputs()), session }
    }

    /// The session.
    pub fn session(&self) -> &crate::Session {
        &self.session
    }
}

impl HostArray {
    /// The array as a tensor of the type that a graph declares for this input; of its own type if that is `None`.
    ///
    /// # Errors
    /// Integers that do not fit the type, and a shape that does not fit the number of values.
    pub fn into_tensor(self, declared: Option<DType>) -> Result<Tensor, TowerFailure> {
        let tensor = match (self, declared) {
            (HostArray::F32 { data, shape }, Some(DType::F16)) => {
                let half: Vec<half::f16> = data.into_iter().map(half::f16::from_f32).collect();
                Tensor::from_slice(&shape, &half)
            }
            (HostArray::I64 { data, shape }, Some(DType::I32)) => {
                let narrow = data.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>()?;
                Tensor::from_slice(&shape, &narrow)
            }
            (HostArray::I64 { data, shape }, Some(DType::Bool)) => {
                let bools: Vec<Bool> = data.into_iter().map(|x| Bool::from(x != 0)).collect();
                Tensor::from_slice(&shape, &bools)
            }
            (HostArray::F32 { data, shape }, _) => Tensor::from_slice(&shape, &data),
            (HostArray::I64 { data, shape }, _) => Tensor::from_slice(&shape, &data),
        };
        Ok(tensor?)
    }
}

/// A tensor as floats or as 64-bit integers.
impl From<&Tensor> for HostArray {
    fn from(tensor: &Tensor) -> Self {
        let shape = tensor.shape().to_vec();
        match tensor.to_f32_vec() {
            Some(data) => HostArray::F32 { data, shape },
            None => HostArray::I64 { data: tensor.to_i64_vec().unwrap_or_default(), shape },
        }
    }
}

/// A tower's inputs as tensors, each of the type that `declared` gives for its name.
///
/// # Errors
/// As [`HostArray::into_tensor`].
pub fn into_tensors(
    inputs: Vec<(String, HostArray)>,
    declared: impl Fn(&str) -> Option<DType>,
) -> Result<Vec<(String, Tensor)>, TowerFailure> {
    let tensor = |(name, array): (String, HostArray)| {
        let declared = declared(&name);
        Ok((name, array.into_tensor(declared)?))
    };
    inputs.into_iter().map(tensor).collect()
}

/// A tower's outputs, in the order of their names.
pub fn named(outputs: &[&str], results: &[Tensor]) -> Vec<(String, HostArray)> {
    outputs.iter().zip(results).map(|(&name, tensor)| (name.to_owned(), HostArray::from(tensor))).collect()
}

impl Tower for SessionTower {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    async fn run(
        &self,
        inputs: Vec<(String, HostArray)>,
        outputs: &[&str],
    ) -> Result<Vec<(String, HostArray)>, TowerFailure> {
        let declared =
            |name: &str| self.session.inputs().iter().find(|info| *info.name == *name).map(|info| info.dtype);
        let tensors = into_tensors(inputs, declared)?;
        let inputs: Vec<(&str, Tensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
        let results = self.session.run_for(&inputs, outputs).await?;
        Ok(named(outputs, &results))
    }
}
