//! The seam between tasks and whatever runs a graph: the only place where they meet.
//!
//! A task hands over named arrays and awaits named arrays. It does not know backends, plans or
//! threads, and never blocks: in a browser the answer of a GPU arrives in a later turn of the event
//! loop.

use std::error::Error;
use std::future::Future;

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
