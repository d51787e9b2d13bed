//! Tests of the dual tower on graphs made of closures.

use std::cell::RefCell;

use super::*;
use crate::tasks::config::ConfigFiles;
use crate::tasks::testing::block_on;

type Arrays = Vec<(String, HostArray)>;

/// A graph that remembers what it was given.
struct Fake {
    inputs: Vec<String>,
    outputs: Vec<String>,
    answer: fn(&Arrays) -> Result<HostArray, TowerFailure>,
    seen: RefCell<Vec<Arrays>>,
}

impl Fake {
    fn new(inputs: &[&str], outputs: &[&str], answer: fn(&Arrays) -> Result<HostArray, TowerFailure>) -> Self {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self { inputs: own(inputs), outputs: own(outputs), answer, seen: RefCell::default() }
    }
}

impl Tower for Fake {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    async fn run(&self, inputs: Arrays, outputs: &[&str]) -> Result<Arrays, TowerFailure> {
        let answer = (self.answer)(&inputs)?;
        self.seen.borrow_mut().push(inputs);
        Ok(vec![(outputs[0].to_owned(), answer)])
    }
}

fn config() -> FolderConfig {
    FolderConfig::parse(&ConfigFiles {
        preprocessor: Some(br#"{"size": {"height": 1, "width": 1}, "do_normalize": false}"#),
        tokenizer: Some(br#"{"model_max_length": 6}"#),
        ..Default::default()
    })
    .unwrap()
}

fn pixel(colour: [u8; 3]) -> Pixels {
    Pixels::from_rgb(1, 1, colour.to_vec()).unwrap()
}

fn tokens() -> TokenBatch {
    TokenBatch {
        input_ids: vec![0, 5, 6, 7, 8, 9],
        attention_mask: vec![0, 1, 1, 1, 1, 1],
        texts: 2,
        length: 3,
        counts: vec![2, 3],
    }
}

/// Three numbers a picture: its colours.
fn colours(inputs: &Arrays) -> Result<HostArray, TowerFailure> {
    let (data, shape) = inputs[0].1.as_f32().unwrap();
    Ok(HostArray::F32 { data: data.to_vec(), shape: vec![shape[0], 3, 1, 1] })
}

/// One vector a token: its id and 1.
fn ids(inputs: &Arrays) -> Result<HostArray, TowerFailure> {
    let HostArray::I64 { data, shape } = &inputs[0].1 else { panic!("ids are integers") };
    let data = data.iter().flat_map(|&id| [id as f32, 1.0]).collect();
    Ok(HostArray::F32 { data, shape: vec![shape[0], shape[1], 2] })
}

fn separate(image: Option<Fake>, text: Option<Fake>) -> Graphs<Fake> {
    Graphs::Separate { image, text }
}

#[test]
fn pictures_become_unit_vectors_in_batches() {
    let image = Fake::new(&["pixel_values"], &["last_hidden_state", "pooler_output"], colours);
    let tower = DualTower::new(separate(Some(image), None), &config()).unwrap().with_batch(2);
    let pictures = [pixel([3, 4, 0]), pixel([0, 0, 0]), pixel([0, 0, 9])];
    let vectors = block_on(tower.encode_images(&pictures)).unwrap();
    assert!((vectors[0][0] - 0.6).abs() < 1e-6 && (vectors[0][1] - 0.8).abs() < 1e-6);
    assert_eq!(vectors[1..], [vec![0.0; 3], vec![0.0, 0.0, 1.0]]);
    let Graphs::Separate { image: Some(image), .. } = &tower.graphs else { panic!("separate") };
    let seen = image.seen.borrow();
    let shapes: Vec<_> = seen.iter().map(|inputs| inputs[0].1.shape().to_vec()).collect();
    assert_eq!(shapes, [[2, 3, 1, 1], [1, 3, 1, 1]]);
    assert!(block_on(tower.encode_images(&[])).unwrap().is_empty());
}

#[test]
fn token_vectors_are_pooled_as_the_folder_says() {
    let inputs = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];
    let text = Fake::new(&inputs, &["last_hidden_state", "pooler_output"], ids);
    let mut config = config();
    config.pooling = Some(serde_json::from_str(r#"{"pooling_mode": "mean"}"#).unwrap());
    let tower = DualTower::new(separate(None, Some(text)), &config).unwrap();
    let vectors = block_on(tower.encode_tokens(&tokens())).unwrap();
    let expected = [[5.5f32, 1.0], [8.0, 1.0]];
    for (vector, [x, y]) in vectors.iter().zip(expected) {
        assert!((vector[0] / vector[1] - x / y).abs() < 1e-5, "{vector:?}");
    }
    let Graphs::Separate { text: Some(text), .. } = &tower.graphs else { panic!("separate") };
    let seen = text.seen.borrow();
    let integers = |data: &[i64]| HostArray::I64 { data: data.to_vec(), shape: vec![2, 3] };
    assert_eq!(seen[0][2].1, integers(&[0; 6]));
    assert_eq!(seen[0][3].1, integers(&[0, 0, 1, 0, 1, 2]));
    assert!(tower.facts().contains("pooling: mean"));
}

#[test]
fn joint_graphs_get_a_stand_in_for_the_other_side() {
    let answer = |inputs: &Arrays| -> Result<HostArray, TowerFailure> {
        let count = inputs.iter().map(|(_, array)| array.shape()[0]).max().unwrap();
        Ok(HostArray::F32 { data: [0.0, 2.0].repeat(count), shape: vec![count, 2] })
    };
    let inputs = ["input_ids", "pixel_values", "attention_mask"];
    let outputs = ["logits_per_image", "text_embeds", "image_embeds"];
    let joint = Fake::new(&inputs, &outputs, answer);
    let tower = DualTower::new(Graphs::Joint(joint), &config()).unwrap().with_batch(2);
    let pictures = [pixel([1, 2, 3]), pixel([4, 5, 6])];
    assert_eq!(block_on(tower.encode_images(&pictures)).unwrap(), [[0.0, 1.0], [0.0, 1.0]]);
    assert_eq!(block_on(tower.encode_tokens(&tokens())).unwrap().len(), 2);
    let Graphs::Joint(joint) = &tower.graphs else { panic!("joint") };
    let seen = joint.seen.borrow();
    assert_eq!(seen[0][0].1.shape(), [1, 1]);
    assert_eq!(seen[1][1].1.shape(), [1, 3, 1, 1]);
}

#[test]
fn what_does_not_fit_is_named() {
    let kind = |image: Fake| {
        let tower = DualTower::new(separate(Some(image), None), &config()).unwrap();
        block_on(tower.encode_images(&[pixel([1, 2, 3])])).unwrap_err()
    };
    let error = kind(Fake::new(&["pixel_values", "bool_masked_pos"], &["pooler_output"], colours));
    assert_eq!(error.kind(), "tower_unknown_input");
    assert!(error.to_string().contains("bool_masked_pos"), "{error}");
    let error = kind(Fake::new(&["pixel_values"], &["logits"], colours));
    assert_eq!(error.kind(), "tower_no_embedding");
    let error = kind(Fake::new(&["pixel_values"], &["last_hidden_state"], colours));
    assert_eq!(error.kind(), "tower_no_embedding");
    let error = kind(Fake::new(&["pixel_values"], &["image_embeds"], |_| Err("no memory".into())));
    assert_eq!(error.to_string(), "the image graph failed: no memory");
    let error = kind(Fake::new(&["pixel_values"], &["image_embeds"], |_| {
        Ok(HostArray::F32 { data: vec![1.0; 4], shape: vec![2, 2] })
    }));
    assert_eq!(error.kind(), "tower_output");
    let error = kind(Fake::new(&["pixel_values"], &["image_embeds"], |_| {
        Ok(HostArray::I64 { data: vec![1], shape: vec![1, 1] })
    }));
    assert_eq!(error.kind(), "tower_output");

    let empty = DualTower::<Fake>::new(separate(None, None), &config()).unwrap();
    assert_eq!(block_on(empty.encode_tokens(&tokens())).unwrap_err().kind(), "tower_absent");
    let error = block_on(empty.encode_images(&[pixel([0; 3])])).unwrap_err();
    assert_eq!(error.kind(), "tower_absent");
}

#[cfg(feature = "text")]
mod with_tokenizer {
    use super::*;
    use crate::tasks::text::Padding;

    const WORDS: &[u8] = include_bytes!("../testdata/tokenizer_words.json");

    fn tower(inputs: &[&str], answer: fn(&Arrays) -> Result<HostArray, TowerFailure>) -> DualTower<Fake> {
        let text = Fake::new(inputs, &["text_embeds"], answer);
        let tower = DualTower::new(separate(None, Some(text)), &config()).unwrap();
        tower.with_tokenizer(WORDS, &config()).unwrap()
    }

    /// The id at the end token, as CLIP: what follows does not matter.
    fn causal(inputs: &Arrays) -> Result<HostArray, TowerFailure> {
        let HostArray::I64 { data, shape } = &inputs[0].1 else { panic!("ids are integers") };
        let rows = data.chunks(shape[1]);
        let data = rows.flat_map(|row| {
            let end = row.iter().position(|&id| id == 2).unwrap();
            [row[end - 1] as f32, end as f32]
        });
        Ok(HostArray::F32 { data: data.collect(), shape: vec![shape[0], 2] })
    }

    /// Sees the whole row, as SigLIP.
    fn whole(inputs: &Arrays) -> Result<HostArray, TowerFailure> {
        let shape = inputs[0].1.shape();
        Ok(HostArray::F32 { data: vec![1.0, shape[1] as f32], shape: vec![1, 2] })
    }

    #[test]
    fn texts_are_tokenized_and_encoded() {
        let tower = tower(&["input_ids", "attention_mask"], causal).with_batch(2);
        assert_eq!(tower.text_encoder().unwrap().padding(), Padding::Longest);
        let vectors = block_on(tower.encode_texts(&["cat", "a cat", "photo"])).unwrap();
        assert_eq!(vectors.len(), 3);
        assert!((vectors[1][0] / vectors[1][1] - 5.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn padding_is_kept_only_where_the_graph_sees_it() {
        let mut causal = tower(&["input_ids"], causal);
        assert_eq!(causal.text_encoder().unwrap().padding(), Padding::Fixed(6));
        assert_eq!(block_on(causal.settle_padding()).unwrap(), Padding::Longest);
        assert_eq!(causal.text_encoder().unwrap().padding(), Padding::Longest);
        // The probe fills this context, so make it longer for the graph that sees its padding.
        let mut config = config();
        config.tokenizer.model_max_length = Some(12);
        let text = Fake::new(&["input_ids"], &["text_embeds"], whole);
        let whole = DualTower::new(separate(None, Some(text)), &config).unwrap();
        let mut whole = whole.with_tokenizer(WORDS, &config).unwrap();
        assert_eq!(block_on(whole.settle_padding()).unwrap(), Padding::Fixed(12));
    }
}
