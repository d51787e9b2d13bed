//! The `lenslet` command as its users run it, on small temporary folders.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lenslet-cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// A folder of photographs from the gallery.
    fn pictures(&self, names: &[&str]) -> String {
        let folder = self.0.join("pictures");
        std::fs::create_dir_all(&folder).unwrap();
        for name in names {
            std::fs::copy(gallery().join(name), folder.join(name)).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn gallery() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("gallery/photos")
}

fn lenslet(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lenslet")).args(arguments).args(["--device", "cpu"]).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON object of a command that must succeed.
fn json(arguments: &[&str]) -> Value {
    let output = lenslet(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit status 2, two lines on stderr, nothing on stdout, and the error's kind.
fn refused(arguments: &[&str], kind: &str) -> String {
    let output = lenslet(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(text.contains(&format!("[{kind}]")), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn index_and_search_round_trip_and_stay_up_to_date() {
    let scratch = Scratch::new("round-trip");
    let pictures = scratch.pictures(&["tabby-cat.jpg", "rocket.jpg", "coffee.jpg"]);
    let index = scratch.path("pictures.idx");
    let report = json(&["index", &pictures, "-o", &index]);
    assert_eq!((&report["added"], &report["pictures"]), (&3.into(), &3.into()));

    let found = json(&["search", "a cat", "--index", &index, "-k", "2"]);
    assert_eq!(found["hits"][0]["path"], "tabby-cat.jpg", "{found}");
    assert_eq!(found["hits"].as_array().unwrap().len(), 2);
    assert_eq!(found["model"], "photo-search");
    let rocket = Path::new(&pictures).join("rocket.jpg");
    let found = json(&["search", "--image", rocket.to_str().unwrap(), "--index", &index]);
    assert_eq!(found["hits"][0]["path"], "rocket.jpg");
    assert!(found["hits"][0]["score"].as_f64().unwrap() > 0.999);

    std::fs::remove_file(rocket).unwrap();
    std::fs::copy(gallery().join("owl.jpg"), Path::new(&pictures).join("owl.jpg")).unwrap();
    std::fs::write(Path::new(&pictures).join("broken.png"), b"\x89PNG\r\n\x1a\nnot really").unwrap();
    let report = json(&["index", &pictures, "-o", &index]);
    assert_eq!(report["added"], 1, "{report}");
    assert_eq!((&report["unchanged"], &report["removed"]), (&2.into(), &1.into()));
    assert_eq!(report["skipped"][0]["path"], "broken.png");

    // Another model's vectors.
    refused(&["search", "a cat", "--index", &index, "--model", "emoji-clip"], "index_fingerprint");
    refused(&["index", &pictures, "-o", &index, "--model", "emoji-clip"], "index_fingerprint");
    // Cut off.
    let bytes = std::fs::read(&index).unwrap();
    std::fs::write(&index, &bytes[..bytes.len() - 7]).unwrap();
    refused(&["search", "a cat", "--index", &index], "index_truncated");
    refused(&["index", &pictures, "-o", &index], "index_truncated");
    assert_eq!(json(&["index", &pictures, "-o", &index, "--rebuild"])["pictures"], 3);
}

#[test]
fn pictures_that_cannot_be_read_are_errors_of_their_own() {
    let scratch = Scratch::new("pictures");
    let empty = scratch.path("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&["index", &empty, "-o", &scratch.path("a.idx")], "no_pictures");
    refused(&["index", &scratch.path("absent"), "-o", &scratch.path("a.idx")], "not_a_folder");

    let huge = scratch.path("huge.png");
    std::fs::write(&huge, png_header(60_000, 60_000)).unwrap();
    let started = Instant::now();
    let text = refused(&["embed", "--image", &huge], "image_too_large");
    assert!(text.contains("60000 x 60000"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(20));
    std::fs::write(&huge, png_header(0, 5)).unwrap();
    refused(&["embed", "--image", &huge], "image_empty");
}

/// Signature and header of a PNG file, with the right checksum, and nothing behind.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let crc = chunk.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    [b"\x89PNG\r\n\x1a\n\0\0\0\x0d".as_slice(), &chunk, &(!crc).to_be_bytes()].concat()
}

#[test]
fn models_that_cannot_be_read_are_errors_of_their_own() {
    let scratch = Scratch::new("models");
    let text = refused(&["embed", "--text", "a", "--model", "no-such-model"], "model_unknown");
    assert!(text.contains("photo-search"), "{text}");
    refused(&["embed", "--text", "a", "--model", "hf:org/name"], "model_on_hub");
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/emoji-clip/onnx/vision_model_fp16.onnx");
    let cut = scratch.path("cut.onnx");
    std::fs::write(&cut, &std::fs::read(whole).unwrap()[..100_000]).unwrap();
    refused(&["inspect", &cut], "not_onnx");
    let foreign = scratch.path("foreign.onnx");
    std::fs::write(&foreign, one_node_model("NoSuchOperator")).unwrap();
    let text = refused(&["inspect", &foreign], "unknown_operator");
    assert!(text.contains("the_node") && text.contains("NoSuchOperator") && text.contains("17"), "{text}");
    let output = lenslet(&["inspect", &foreign, "--threads", "x"]);
    assert_eq!(output.status.code(), Some(2));
}

/// One length-delimited field of a protobuf message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128);
    [&[number << 3 | 2, length][..], bytes].concat()
}

/// An ONNX file, opset 17, with one node from `x` to `y`, both f32 [3].
fn one_node_model(operator: &str) -> Vec<u8> {
    let dim = field(1, &[0x08, 3]);
    let tensor = [&[0x08, 1][..], &field(2, &dim)].concat();
    let value = |name: &str| [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(3, b"the_node"), field(4, operator.as_bytes())].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat();
    [&[0x08, 8][..], &field(7, &graph), &field(8, &[0x10, 17])].concat()
}

/// A golden with one case of a model of [`one_node_model`].
fn golden(path: &str, shape: &[usize], input: &[f32], output: &[f32]) {
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (input, output) = (bytes(input), bytes(output));
    let tensors = [
        ("case0.input.x", TensorView::new(Dtype::F32, shape.to_vec(), &input).unwrap()),
        ("case0.output.y", TensorView::new(Dtype::F32, shape.to_vec(), &output).unwrap()),
    ];
    serialize_to_file(tensors, None, Path::new(path)).unwrap();
}

#[test]
fn check_says_yes_no_and_does_not_fit() {
    let scratch = Scratch::new("check");
    let (model, file) = (scratch.path("model.onnx"), scratch.path("model.golden.safetensors"));
    std::fs::write(&model, one_node_model("Relu")).unwrap();
    golden(&file, &[3], &[-1.0, 2.0, 3.0], &[0.0, 2.0, 3.0]);
    let report = json(&["check", &model, &file]);
    assert_eq!(report["ok"], true);
    assert_eq!(report["cases"][0]["output"], "y");
    assert_eq!(report["cases"][0]["max_abs"], 0.0);

    golden(&file, &[3], &[-1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]);
    let output = lenslet(&["check", &model, &file, "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(lenslet(&["check", &model, &file, "--cosine", "0.9"]).status.success());

    golden(&file, &[2], &[1.0, 2.0], &[1.0, 2.0]);
    let text = refused(&["check", &model, &file], "golden_mismatch");
    assert!(text.contains("case0.input.x"), "{text}");
    std::fs::write(&file, b"nothing").unwrap();
    refused(&["check", &model, &file], "golden_format");
}

#[test]
fn classify_and_embed_print_what_design_says() {
    let cat = gallery().join("tabby-cat.jpg");
    let report = json(&["classify", cat.to_str().unwrap(), "--labels", "rocket,cat,coffee"]);
    assert_eq!(report["labels"][0]["label"], "cat", "{report}");
    let report = json(&["embed", "--text", "a cat"]);
    assert_eq!(report["dim"], 384);
    assert_eq!(report["fingerprint"].as_str().unwrap().len(), 32);
    let sum: f64 = report["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((sum - 1.0).abs() < 1e-4);
}

#[test]
fn a_server_is_refused_with_a_reason() {
    let program = env!("CARGO_BIN_EXE_lenslet");
    let output = Command::new(program).args(["embed", "--text", "a", "--device", "server:http://x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("server"));
}

/// A model of the zoo of test graphs, which is no part of the repository.
fn zoo(model: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("LENSLET_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let folder = shared.join("zoo").join(model);
    if !folder.is_dir() {
        eprintln!("skipped: there is no zoo/{model} (LENSLET_SHARED names the folder that holds it)");
        return None;
    }
    Some(folder)
}

#[test]
fn ask_answers_the_same_every_time_and_says_what_a_model_lacks() {
    let cat = gallery().join("tabby-cat.jpg");
    let ask = ["ask", cat.to_str().unwrap(), " what is it?"];
    refused(&ask, "model_required");
    let text = refused(&[&ask[..], &["--model", "emoji-clip"]].concat(), "model_task");
    assert!(text.contains("vision_encoder") && text.contains("answer questions"), "{text}");

    let Some(folder) = zoo("smolvlm-256m-instruct/tiny") else { return };
    let folder = folder.to_str().unwrap();
    let asked = [&ask[..], &["--model", folder, "--max-tokens", "8", "--temperature", "0"]].concat();
    let report = json(&asked);
    let tokens = report["tokens"].as_array().unwrap();
    assert!((1..=8).contains(&tokens.len()), "{report}");
    assert!(!report["text"].as_str().unwrap().is_empty(), "{report}");
    assert!(report["prompt_tokens"].as_u64().unwrap() > 10, "{report}");
    assert!(report["tokens_per_second"].is_f64() && report["model"].is_string(), "{report}");
    assert_eq!(json(&asked)["tokens"], report["tokens"]);
    let searched = json(&[&asked[..], &["--beams", "3"]].concat());
    assert_eq!(searched["prompt_tokens"], report["prompt_tokens"]);
    let drawn = [&ask[..], &["--model", folder, "--temperature", "1", "--beams", "3"]].concat();
    refused(&drawn, "beams_and_temperature");
    refused(&[&asked[..], &["--beams", "0"]].concat(), "beam_range");
    let token = ["ask", ask[1], "what is <image>?", "--model", folder];
    refused(&token, "question_image_token");

    // The same folder without its table of embeddings, and without its eyes.
    let scratch = Scratch::new("ask");
    for missing in ["embed_tokens.onnx", "vision_encoder.onnx"] {
        let copy = PathBuf::from(scratch.path(missing));
        std::fs::create_dir_all(&copy).unwrap();
        for file in ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"] {
            std::fs::copy(Path::new(folder).join(file), copy.join(file)).unwrap();
        }
        for file in ["decoder_model_merged.onnx", "embed_tokens.onnx", "vision_encoder.onnx"] {
            if file != missing {
                std::fs::copy(Path::new(folder).join("onnx").join(file), copy.join(file)).unwrap();
            }
        }
        let text = refused(&[&ask[..], &["--model", copy.to_str().unwrap()]].concat(), "model_task");
        assert!(text.contains(missing.trim_end_matches(".onnx")), "{text}");
    }
}
