//! A session behind the seam that tasks run graphs through.

use lenslet::tasks::tower::{HostArray, Tower, TowerFailure};
use lenslet::tensor::{DType, Tensor};
use lenslet::{Session, TensorInfo};

/// A loaded graph.
pub(crate) struct Graph {
    session: Session,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Graph {
    pub(crate) fn new(session: Session) -> Self {
        let names = |list: &[TensorInfo]| list.iter().map(|info| info.name.to_string()).collect();
        Self {
            inputs: names(session.inputs()),
            outputs: names(session.outputs()),
            session,
        }
    }

    /// Brings an array to the type that the graph declares for this input.
    fn tensor(&self, name: &str, array: &HostArray) -> Result<Tensor, TowerFailure> {
        let declared = self
            .session
            .inputs()
            .iter()
            .find(|info| *info.name == *name)
            .map(|info| info.dtype);
        Ok(match array {
            HostArray::F32 { data, shape } => Tensor::from_slice(shape, data)?,
            HostArray::I64 { data, shape } if declared == Some(DType::I32) => {
                let narrow = data.iter().map(|&id| i32::try_from(id));
                Tensor::from_slice(shape, &narrow.collect::<Result<Vec<_>, _>>()?)?
            }
            HostArray::I64 { data, shape } => Tensor::from_slice(shape, data)?,
        })
    }
}

impl Tower for Graph {
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
        let tensors = inputs
            .iter()
            .map(|(name, array)| Ok((name.as_str(), self.tensor(name, array)?)))
            .collect::<Result<Vec<_>, TowerFailure>>()?;
        let results = self.session.run_for(&tensors, outputs).await?;
        outputs
            .iter()
            .zip(&results)
            .map(|(name, tensor)| {
                let shape = tensor.shape().to_vec();
                let array = match tensor.to_f32_vec() {
                    Some(data) => HostArray::F32 { data, shape },
                    None => HostArray::I64 {
                        data: tensor.to_i64_vec().unwrap_or_default(),
                        shape,
                    },
                };
                Ok(((*name).to_owned(), array))
            })
            .collect()
    }
}
