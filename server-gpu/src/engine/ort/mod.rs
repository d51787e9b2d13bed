//! ONNX Runtime as an engine: CUDA, TensorRT, or the CPU.

mod library;
mod tensor;
mod writer;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lenslet::tensor::Tensor;
use lenslet_models::folder::{ModelFolder, Precision};
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};

use super::lenslet::tower_files;
use super::{Engine, Slot, Specs, Step, Task, TowerCall, TowerSpec, computing};
use crate::chat::ChatPrompt;
use crate::config::{Config, Device};
use crate::error::ServeError;
use crate::hosted::Form;

pub use library::load as load_library;
use writer::{OrtWriter, Text};

/// A model in ONNX Runtime.
pub struct OrtEngine {
    inner: Arc<Inner>,
}

struct Inner {
    /// A session serves one run at a time.
    towers: Vec<Mutex<Session>>,
    writer: Option<OrtWriter>,
    specs: Specs,
    device: &'static str,
}

impl OrtEngine {
    /// Loads a model's folder. The library is loaded already.
    ///
    /// # Errors
    /// What is wrong with the folder, the graphs, or the device's libraries.
    pub fn load(
        folder: &ModelFolder,
        form: Form,
        precision: Precision,
        config: &Config,
    ) -> Result<OrtEngine, ServeError> {
        let device = match config.device {
            Device::Cuda => "cuda",
            Device::Tensorrt => "tensorrt",
            _ => "cpu",
        };
        let mut inner = Inner { towers: vec![], writer: None, specs: Specs::default(), device };
        if form != Form::Towers {
            let writer = OrtWriter::load(folder, form, precision, config)?;
            inner.specs.writer = Some(writer.kind);
            inner.writer = Some(writer);
            return Ok(OrtEngine { inner: Arc::new(inner) });
        }
        let files = folder.graphs(precision).map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
        for (name, path) in tower_files(&files) {
            let session = library::open(path, config)?;
            inner.specs.towers.push(spec(name, path, &session)?);
            inner.towers.push(Mutex::new(session));
        }
        Ok(OrtEngine { inner: Arc::new(inner) })
    }
}

fn spec(name: &str, path: &Path, session: &Session) -> Result<TowerSpec, ServeError> {
    let list = |outlets: &[ort::value::Outlet]| -> Result<Vec<_>, ServeError> {
        outlets.iter().map(|outlet| tensor::spec(outlet.name(), outlet.dtype())).collect()
    };
    let dynamic = quantizes_while_running(path)
        .map_err(|source| ServeError::internal("model_io", format!("{}: {source}", path.display())))?;
    Ok(TowerSpec::new(name, list(session.inputs())?, list(session.outputs())?, dynamic))
}

/// Whether a graph finds scales of activations while running. Operators' names stand in the file as they are.
fn quantizes_while_running(path: &Path) -> std::io::Result<bool> {
    const OPERATORS: [&[u8]; 2] = [b"DynamicQuantizeLinear", b"DynamicQuantizeMatMul"];
    const LONGEST: usize = 21;
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..])?;
        if read == 0 {
            return Ok(false);
        }
        let there = &buffer[..kept + read];
        if there.windows(LONGEST).any(|window| OPERATORS.contains(&window)) {
            return Ok(true);
        }
        // A name may lie across two pieces.
        let tail = there.len().min(LONGEST - 1);
        let from = there.len() - tail;
        buffer.copy_within(from..from + tail, 0);
        kept = tail;
    }
}

/// What ONNX Runtime says of a run. Inputs that do not fit are the caller's to mend.
fn run_error(error: &ort::Error) -> ServeError {
    match error.code() {
        ort::ErrorCode::InvalidArgument => ServeError::bad_request("input_mismatch", error.to_string()),
        // A shape or an index that a kernel finds wrong is told as a failure of the kernel.
        _ if ["indices element out of data bounds", "cannot broadcast"]
            .iter()
            .any(|text| error.message().contains(text)) =>
        {
            ServeError::bad_request("kernel", error.to_string())
        }
        _ => ServeError::internal("ort_run", error.to_string()),
    }
}

impl Inner {
    fn writer(&self) -> Result<&OrtWriter, ServeError> {
        let absent = || ServeError::bad_request("model_task", "this model does not write text");
        self.writer.as_ref().ok_or_else(absent)
    }

    fn run(&self, call: &TowerCall) -> Result<Vec<Tensor>, ServeError> {
        let session = self.towers.get(call.tower);
        let session = session.ok_or_else(|| ServeError::internal("tower_absent", "the model has no such tower"))?;
        let inputs = call.inputs.iter().map(|(name, tensor)| Ok((name.as_str(), tensor::input(tensor)?)));
        let inputs: Vec<(&str, SessionInputValue<'_>)> = inputs.collect::<Result<_, ServeError>>()?;
        let wanted = call.outputs.iter().fold(OutputSelector::no_default(), |all, name| all.with(name));
        let failed = |e: ort::Error| run_error(&e);
        let options = RunOptions::new().map_err(failed)?.with_outputs(wanted);
        // A panic in another run leaves a session as it was.
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run_with_options(inputs, &options).map_err(failed)?;
        let one = |name: &String| {
            let missing = || ServeError::internal("ort_output", format!("there is no output {name}"));
            tensor::output(outputs.get(name).ok_or_else(missing)?)
        };
        call.outputs.iter().map(one).collect()
    }
}

impl Engine for OrtEngine {
    fn name(&self) -> &'static str {
        "ort"
    }

    fn device(&self) -> String {
        self.inner.device.to_owned()
    }

    fn specs(&self) -> &Specs {
        &self.inner.specs
    }

    fn run(&self, call: TowerCall) -> Task<'_, Result<Vec<Tensor>, ServeError>> {
        let inner = self.inner.clone();
        Box::pin(async move { computing(move || inner.run(&call)).await? })
    }

    fn begin(&self, prompt: Arc<ChatPrompt>) -> Task<'_, Result<Slot, ServeError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let text = computing(move || inner.writer()?.begin(&prompt)).await??;
            Ok(Slot(Box::new(Some(text))))
        })
    }

    fn decode_step<'a>(&'a self, slots: &'a mut [Slot]) -> Task<'a, Vec<Option<Result<Step, ServeError>>>> {
        let inner = self.inner.clone();
        Box::pin(async move { super::step_elsewhere(slots, move |text: &mut Text| inner.writer()?.step(text)).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_found_across_the_pieces_of_a_file() {
        let path = std::env::temp_dir().join(format!("lenslet-server-scan-{}", std::process::id()));
        for (before, expected) in [((1 << 20) - 7, true), (5, true)] {
            let bytes = [vec![b'x'; before], b"DynamicQuantizeLinear".to_vec(), vec![b'y'; 100]].concat();
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(quantizes_while_running(&path).unwrap(), expected, "{before}");
        }
        std::fs::write(&path, vec![b'D'; 3 << 20]).unwrap();
        assert!(!quantizes_while_running(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
