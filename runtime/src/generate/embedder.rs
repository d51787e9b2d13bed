//! Token ids to embeddings, for decoders that take these: exporters put the table into a graph of its own where other
//! embeddings, of a picture, may stand between the tokens'.

use super::error::DecoderError;
use crate::Session;
use crate::tensor::{DType, Tensor};

/// The graph that turns token ids into embeddings.
pub(super) struct Embedder {
    session: Session,
    input: String,
    dtype: DType,
}

impl Embedder {
    /// A graph of one input of ids and one output of embeddings `width` wide.
    pub(super) fn new(session: Session, width: usize) -> Result<Embedder, DecoderError> {
        let refuse = |what: String| Err(DecoderError::Mismatch(format!("the graph of token embeddings {what}")));
        let (inputs, outputs) = (session.inputs(), session.outputs());
        let ([input], [output]) = (inputs, outputs) else {
            return refuse(format!("has {} inputs and {} outputs, not one of each", inputs.len(), outputs.len()));
        };
        if !matches!(input.dtype, DType::I64 | DType::I32) {
            return refuse(format!("takes {input}, not token ids"));
        }
        let wide = output.shape.last().and_then(|d| usize::try_from(d.as_const()?).ok());
        if output.shape.len() != 3 || wide != Some(width) {
            return refuse(format!("gives {output}, the decoder takes {width} numbers a token"));
        }
        let (input, dtype) = (input.name.to_string(), input.dtype);
        Ok(Embedder { session, input, dtype })
    }

    /// Embeddings f32 [batch, positions, width] of ids [batch, positions].
    pub(super) async fn run(&self, tokens: &[u32], batch: usize) -> Result<Tensor, DecoderError> {
        let shape = [batch, tokens.len() / batch.max(1)];
        let ids = match self.dtype {
            DType::I32 => Tensor::from_slice(&shape, &tokens.iter().map(|&t| t as i32).collect::<Vec<_>>()),
            _ => Tensor::from_slice(&shape, &tokens.iter().map(|&t| i64::from(t)).collect::<Vec<_>>()),
        };
        let ids = ids.map_err(|e| DecoderError::Mismatch(format!("the token ids: {e}")))?;
        let mut outputs = self.session.run_async(&[(&self.input, ids)]).await?;
        Ok(outputs.swap_remove(0).1)
    }
}
