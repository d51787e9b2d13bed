//! tract as a second opinion on float32 graphs: the zoo's graphs on inputs that no golden holds.
//!
//! tract does not load all of them, which is no failure of ours; that it compares enough of them is asserted, so that the
//! test cannot pass by comparing nothing.

use lenslet::Session;
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tensor::{DType, Tensor};
use lenslet_models::check::{BRANCH, Tolerance, compare, parse_golden};
use lenslet_tests::backend::Backend;
use lenslet_tests::native::{graphs, options, read, say, shared};
use lenslet_tests::random::Random;
use tract_onnx::prelude::{
    Framework as _, InferenceModelExt as _, IntoRunnable as _, IntoTValue as _, TVec, Tensor as TractTensor,
};

/// At least so many graphs must have been compared.
const FLOOR: usize = 25;

/// Golden inputs, with each float replaced by a random one: ids and masks have to stay what they are.
fn inputs(golden: &[u8], random: &mut Random) -> Vec<(String, Tensor)> {
    let case = parse_golden(golden).expect("a golden").remove(0);
    let vary = |tensor: Tensor, random: &mut Random| match tensor.dtype() {
        DType::F32 => Tensor::from_slice(tensor.shape(), &random.normals(tensor.len())).expect("the same shape"),
        _ => tensor,
    };
    case.inputs.into_iter().map(|(name, tensor)| (name, vary(tensor, random))).collect()
}

fn to_tract(tensor: &Tensor) -> Result<TractTensor, String> {
    let shape = tensor.shape();
    match tensor.dtype() {
        DType::F32 => TractTensor::from_shape(shape, tensor.as_slice::<f32>().map_err(|e| e.to_string())?),
        DType::I64 => TractTensor::from_shape(shape, tensor.as_slice::<i64>().map_err(|e| e.to_string())?),
        DType::Bool => TractTensor::from_shape(shape, &tensor.bytes().iter().map(|&b| b != 0).collect::<Vec<_>>()),
        other => return Err(format!("an input is {other}")),
    }
    .map_err(|e| e.to_string())
}

/// Output names and values by tract; an error says what it could not do.
fn by_tract(model: &[u8], inputs: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>, String> {
    let message =
        |e: tract_onnx::prelude::TractError| e.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let mut loaded = tract_onnx::onnx().model_for_read(&mut &*model).map_err(message)?;
    let mut values: TVec<_> = TVec::new();
    for (at, outlet) in loaded.input_outlets().map_err(message)?.to_vec().into_iter().enumerate() {
        let name = loaded.node(outlet.node).name.clone();
        let (_, tensor) = inputs.iter().find(|(n, _)| *n == name).ok_or(format!("it wants an input {name}"))?;
        let tensor = to_tract(tensor)?;
        let fact = tract_onnx::prelude::InferenceFact::dt_shape(tensor.datum_type(), tensor.shape());
        loaded.set_input_fact(at, fact).map_err(message)?;
        values.push(tensor.into_tvalue());
    }
    let names: Vec<String> = loaded
        .output_outlets()
        .map_err(message)?
        .iter()
        .map(|o| loaded.outlet_label(*o).map_or_else(|| loaded.node(o.node).name.clone(), str::to_owned))
        .collect();
    let results = loaded.into_optimized().map_err(message)?.into_runnable().map_err(message)?.run(values);
    let floats = |value: &TractTensor| -> Option<Tensor> {
        let view = value.to_plain_array_view::<f32>().ok()?;
        Tensor::from_slice(value.shape(), &view.iter().copied().collect::<Vec<f32>>()).ok()
    };
    let results = results.map_err(message)?;
    // Whole numbers are compared with the goldens already.
    Ok(names.into_iter().zip(&results).filter_map(|(name, value)| Some((name, floats(value)?))).collect())
}

#[test]
fn float_graphs_agree_with_tract() {
    let Some(folder) = shared("zoo") else { return };
    let options = options(Backend::Cpu).expect("a CPU is always there");
    let narrow = ["_fp16", "_quantized", "_uint8", "_int8", "_qdq", "_q4", "_q4f16"];
    let mut random = Random::new(4);
    let (mut compared, mut least, mut not_loaded, mut wrong) = (0, 1.0, Vec::new(), Vec::new());
    for graph in graphs(&folder) {
        if graph.name.starts_with("contrib/") || narrow.iter().any(|suffix| graph.name.ends_with(suffix)) {
            continue;
        }
        let (model, golden) = (read(&graph.model), read(&graph.golden));
        let inputs = inputs(&golden, &mut random);
        if inputs.iter().any(|(name, _)| name == BRANCH) {
            // A merged decoder: its two halves are graphs of their own.
            continue;
        }
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| by_tract(&model, &inputs)));
        let theirs = match attempt.unwrap_or_else(|_| Err("it panicked".into())) {
            Ok(theirs) => theirs,
            Err(reason) => {
                not_loaded.push(format!("{}: {reason:.300}", graph.name));
                continue;
            }
        };
        let fed: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let ours = Session::from_onnx(&model, &NoExternalData, &ImportOptions::default(), options.clone())
            .map_err(|e| e.to_string())
            .and_then(|session| session.run(&fed).map_err(|e| e.to_string()))
            .unwrap_or_else(|e| panic!("{}: {e}", graph.name));
        let mut any = false;
        for (name, want) in &theirs {
            let Some((_, got)) = ours.iter().find(|(n, _)| **n == **name) else { continue };
            let result = compare(0, name, got, want, Tolerance { cosine: 0.9999, max_abs: None });
            least = f64::min(least, result.cosine.unwrap_or(0.0));
            any = true;
            if !result.ok {
                wrong.push(format!("{} {name}: cosine {:?} {:?}", graph.name, result.cosine, result.reason));
            }
        }
        compared += usize::from(any);
        if !any {
            not_loaded.push(format!(
                "{}: none of its outputs {:?} is ours",
                graph.name,
                theirs.iter().map(|t| &t.0).collect::<Vec<_>>()
            ));
        }
    }
    say(&format!("tract: {compared} float32 graphs compared, least cosine {least:.6}"));
    for line in &not_loaded {
        say(&format!("tract could not run {line}"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared >= FLOOR, "only {compared} graphs were compared, {FLOOR} at least were expected");
}
