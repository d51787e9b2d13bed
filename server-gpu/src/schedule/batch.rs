//! Many runs as one: rows joined, and the outputs' rows given back to whom they belong.

use std::sync::Arc;
use std::time::Instant;

use lenslet::tensor::Tensor;
use tracing::{Instrument as _, Span};

use super::lane::Job;
use crate::engine::{Engine, TowerCall};
use crate::error::{Reason, ServeError};
use crate::metrics;
use crate::telemetry::spans;

/// What a batch runs on.
pub(super) struct Target {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) tower: usize,
    pub(super) outputs: Vec<String>,
}

/// Runs a batch and answers all of it.
pub(super) async fn run(target: Target, mut jobs: Vec<Job>) {
    let started = Instant::now();
    let rows: usize = jobs.iter().map(|job| job.rows).sum();
    let tower = target.engine.specs().towers.get(target.tower).map_or("", |tower| &tower.name);
    let waited = |job: &mut Job| {
        metrics::queue_time(started - job.arrived);
        job.queue = Span::none();
        spans::compute(&job.request, tower, job.rows)
    };
    let parts: Vec<Span> = jobs.iter_mut().map(waited).collect();
    let batch = spans::batch(&parts, target.engine.name(), tower, rows);
    let results = run_joined(&target, &jobs).instrument(batch).await;
    drop(parts);
    metrics::batch(target.engine.name(), rows, started.elapsed());
    match results {
        Ok(results) => {
            for (job, result) in jobs.into_iter().zip(results) {
                // Whoever asked may be gone by now.
                let _ = job.reply.send(Ok(result));
            }
        }
        // One request's fault, a token beyond the vocabulary for instance, is not to fail the others. What is the engine's fault
        // would only come again.
        Err(error) if jobs.len() > 1 && error.reason == Reason::BadRequest => {
            for job in jobs {
                let result = run_joined(&target, std::slice::from_ref(&job)).await.map(|mut results| results.remove(0));
                let _ = job.reply.send(result);
            }
        }
        Err(error) => {
            for job in jobs {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }
}

async fn run_joined(target: &Target, jobs: &[Job]) -> Result<Vec<Vec<Tensor>>, ServeError> {
    let inputs = match jobs {
        [only] => only.inputs.clone(),
        several => {
            let names = several[0].inputs.iter().map(|(name, _)| name);
            names.enumerate().map(|(at, name)| Ok((name.clone(), join(several, at)?))).collect::<Result<_, _>>()?
        }
    };
    let call = TowerCall { tower: target.tower, inputs, outputs: target.outputs.clone() };
    let outputs = target.engine.run(call).await?;
    if jobs.len() == 1 {
        return Ok(vec![outputs]);
    }
    let rows: Vec<usize> = jobs.iter().map(|job| job.rows).collect();
    let mut parts: Vec<Vec<Tensor>> = jobs.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in &outputs {
        for (part, tensor) in parts.iter_mut().zip(split(output, &rows)?) {
            part.push(tensor);
        }
    }
    Ok(parts)
}

fn failed(error: lenslet::tensor::TensorError) -> ServeError {
    ServeError::internal("batch", error.to_string())
}

/// The input at this place of all jobs, below each other. Their lane has made sure that all else is equal.
fn join(jobs: &[Job], at: usize) -> Result<Tensor, ServeError> {
    let first = &jobs[0].inputs[at].1;
    let mut shape = first.shape().to_vec();
    shape[0] = jobs.iter().map(|job| job.rows).sum();
    let mut bytes = Vec::with_capacity(jobs.iter().map(|job| job.inputs[at].1.bytes().len()).sum());
    jobs.iter().for_each(|job| bytes.extend_from_slice(job.inputs[at].1.bytes()));
    Tensor::from_bytes(first.dtype(), &shape, &bytes).map_err(failed)
}

/// A tensor cut into parts of so many rows.
fn split(tensor: &Tensor, rows: &[usize]) -> Result<Vec<Tensor>, ServeError> {
    let all: usize = rows.iter().sum();
    let shape = tensor.shape();
    if shape.first() != Some(&all) || all == 0 {
        let what = format!("a batch of {all} rows gave an output of shape {shape:?}");
        return Err(ServeError::internal("batch_output", what));
    }
    let row = tensor.bytes().len() / all;
    let mut at = 0;
    let part = |&rows: &usize| {
        let bytes = &tensor.bytes()[at * row..(at + rows) * row];
        at += rows;
        let shape = [&[rows], &shape[1..]].concat();
        Tensor::from_bytes(tensor.dtype(), &shape, bytes).map_err(failed)
    };
    rows.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_back_to_whom_they_belong() {
        let tensor = Tensor::from_slice(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let parts = split(&tensor, &[1, 2]).unwrap();
        assert_eq!(parts[0].as_slice::<f32>().unwrap(), [1., 2.]);
        assert_eq!((parts[1].shape(), parts[1].as_slice::<f32>().unwrap()), (&[2, 2][..], &[3., 4., 5., 6.][..]));
        assert_eq!(split(&tensor, &[1, 1]).unwrap_err().code, "batch_output");
    }
}
