use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn tokenizer(json: &Value) -> Tokenizer {
    Tokenizer::from_bytes(serde_json::to_vec(json).unwrap()).unwrap()
}

/// The characters that byte-level vocabularies write bytes as: printable Latin-1 as itself, the others from U+0100 on.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return byte as char;
    }
    char::from_u32(256 + (0..byte).filter(|&b| !printable(b)).count() as u32).unwrap()
}

/// All bytes, and tokens of several that end or begin in the middle of a character. Id n is byte n.
fn byte_level() -> Tokenizer {
    let mut words: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
    for (a, b) in [(b'a', 0xf0), (0x80, 0xe2), (0x9f, 0x98), (0x82, 0xac), (b' ', b'a'), (0xac, 0xe2), (0xef, 0xbf)] {
        words.push(vec![a, b]);
    }
    let text = |w: &[u8]| w.iter().map(|&b| byte_char(b)).collect::<String>();
    let vocab: serde_json::Map<_, _> = words.iter().enumerate().map(|(i, w)| (text(w), json!(i))).collect();
    let merges: Vec<_> = words[256..].iter().map(|w| format!("{} {}", text(&w[..1]), text(&w[1..]))).collect();
    tokenizer(&json!({
        "version": "1.0",
        "added_tokens": [{"id": 300, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
}

/// Words and bytes as Llama's: ids 0 to 255 are bytes, then pieces.
fn byte_fallback(decoder: Value) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    (0..256).for_each(|b| {
        vocab.insert(format!("<0x{b:02X}>"), json!(b));
    });
    for piece in ["▁", "a", "b", "▁a", "▁b", "ab", "▁ab", "é", ".", "▁▁"] {
        let id = vocab.len();
        vocab.insert(piece.to_owned(), json!(id));
    }
    tokenizer(&json!({
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocab, "byte_fallback": true,
            "merges": ["▁ a", "▁ b", "a b", "▁a b", "▁ ▁"]},
    }))
}

fn llama() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]})
}

fn word_piece() -> Tokenizer {
    let words = ["[UNK]", "[CLS]", "a", "##a", "##bc", "cat", ".", ",", "!", "'", "s", "##s", "do", "n", "t", "é"];
    let vocab: serde_json::Map<_, _> = words.iter().enumerate().map(|(i, w)| ((*w).to_owned(), json!(i))).collect();
    tokenizer(&json!({
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "[CLS]", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "Whitespace"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    }))
}

/// All pieces of a stream; fails if the window grows.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = Detokenizer::new(tokenizer);
    let mut out: Vec<String> = ids
        .iter()
        .map(|&id| {
            let piece = stream.push(id).unwrap();
            assert!(stream.ids.len() <= 2 * HELD, "{} tokens in the window", stream.ids.len());
            piece
        })
        .collect();
    out.push(stream.finish().unwrap());
    out
}

fn check(tokenizer: &Tokenizer, ids: &[u32]) {
    assert_eq!(pieces(tokenizer, ids).concat(), tokenizer.decode(ids, true).unwrap(), "{ids:?}");
}

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Random text of all sorts of characters.
fn text(rng: &mut Lcg) -> String {
    const PARTS: [&str; 20] = [
        "a",
        "b",
        " ",
        "  ",
        "ab",
        "é",
        "€",
        "😀",
        "👩‍👩‍👧",
        "漢字",
        "\n",
        ".",
        ", ",
        "don't",
        " a",
        "\u{fffd}",
        "नमस्ते",
        "ß",
        "x",
        "cat",
    ];
    (0..rng.below(30)).map(|_| PARTS[rng.below(PARTS.len())]).collect()
}

#[test]
fn any_byte_level_tokens() {
    let tokenizer = byte_level();
    let mut rng = Lcg(1);
    for _ in 0..300 {
        // Bytes of leading and continuing parts are likely, so that broken and whole characters meet.
        let ids: Vec<u32> = (0..rng.below(60))
            .map(|_| match rng.below(4) {
                0 => [0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80][rng.below(7)],
                1 => 256 + rng.below(7) as u32,
                2 => [b'a', b' ', b'.'][rng.below(3)].into(),
                _ => rng.below(310) as u32,
            })
            .collect();
        check(&tokenizer, &ids);
    }
}

#[test]
fn any_text_through_every_tokenizer() {
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let bundled = |name: &str| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundled/");
        Tokenizer::from_file(format!("{root}{name}/tokenizer.json")).unwrap()
    };
    let all = [
        byte_level(),
        byte_fallback(llama()),
        byte_fallback(metaspace),
        word_piece(),
        bundled("emoji-clip"),
        bundled("photo-search"),
    ];
    let mut rng = Lcg(2);
    for tokenizer in &all {
        for _ in 0..200 {
            let text = text(&mut rng);
            let encoding = tokenizer.encode_fast(text.as_str(), false).unwrap();
            check(tokenizer, encoding.get_ids());
        }
    }
}

#[test]
fn any_pieces_and_words() {
    let mut rng = Lcg(3);
    let (llama, words) = (byte_fallback(llama()), word_piece());
    for _ in 0..200 {
        let ids: Vec<u32> = (0..rng.below(40)).map(|_| rng.below(20) as u32).collect();
        check(&words, &ids);
        // Whole characters in bytes, between pieces.
        let ids: Vec<u32> = (0..rng.below(20))
            .flat_map(|_| match rng.below(3) {
                0 => "😀".bytes().map(u32::from).collect(),
                1 => "€".bytes().map(u32::from).collect(),
                _ => vec![256 + rng.below(10) as u32],
            })
            .collect();
        check(&llama, &ids);
        // Bytes that are no text, between pieces.
        let ids: Vec<u32> = (0..rng.below(20))
            .flat_map(|i| if i % 2 == 0 { vec![0x80; rng.below(9)] } else { vec![256 + rng.below(10) as u32] })
            .collect();
        check(&llama, &ids);
    }
}

#[test]
fn characters_are_never_split() {
    let tokenizer = byte_level();
    let ids: Vec<u32> = "é😀€a".bytes().map(u32::from).collect();
    let got = pieces(&tokenizer, &ids);
    assert_eq!(got, ["", "é", "", "", "", "😀", "", "", "€", "a", ""]);
    let tokenizer = byte_fallback(llama());
    let got = pieces(&tokenizer, &[259, 0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82, 0xac, 260]);
    assert_eq!(got, ["a", "", "", "", "😀", "", "", "€", " b", ""]);
}

#[test]
fn an_unfinished_character_comes_out_at_the_end() {
    let tokenizer = Arc::new(byte_level());
    let mut stream = Detokenizer::new(tokenizer);
    assert_eq!(stream.push(b'a'.into()).unwrap(), "a");
    assert_eq!(stream.push(0xe2).unwrap(), "");
    assert_eq!(stream.push(300).unwrap() + &stream.push(9999).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    assert_eq!(stream.finish().unwrap(), "");
    assert_eq!(stream.push(b'b'.into()).unwrap(), "b");
}

#[test]
fn what_is_out_stays_when_bytes_go_wrong() {
    // The tokenizer alone would replace the euro sign as well.
    let got = pieces(&byte_fallback(llama()), &[259, 0xe2, 0x82, 0xac, 0x80, 258]);
    assert_eq!(got.concat(), "a€\u{fffd}b");
}

#[test]
fn endless_rubbish_needs_no_endless_memory() {
    let tokenizer = byte_level();
    // Each token continues one character and begins another.
    for id in [0x80, 0xe2, 257, 261, 256] {
        check_bounded(&tokenizer, &vec![id; 500]);
    }
    check_bounded(&byte_fallback(llama()), &vec![0x80; 500]);
    // A blank alone shows nothing at the beginning of a text.
    check_bounded(&byte_fallback(json!({"type": "Strip", "content": "▁", "start": 9, "stop": 0})), &vec![256; 500]);
}

fn check_bounded(tokenizer: &Tokenizer, ids: &[u32]) {
    let got = pieces(tokenizer, ids);
    // Text comes while tokens come, not all at the end.
    let late = got.last().unwrap().len();
    assert!(late <= 2 * HELD * 4, "{late} bytes at the end");
}

/// The tokenizer of a real language model, if the files beside the checkout are there.
#[test]
fn smollm2() {
    let shared = std::env::var("LENSLET_SHARED").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let file = format!("{shared}/smollm2-135m-instruct/tokenizer.json");
    let Ok(bytes) = std::fs::read(&file) else { return println!("skipped: no smollm2-135m-instruct/tokenizer.json") };
    let tokenizer = Tokenizer::from_bytes(bytes).unwrap();
    let mut rng = Lcg(4);
    for _ in 0..100 {
        let text = text(&mut rng);
        let encoding = tokenizer.encode_fast(text.as_str(), false).unwrap();
        check(&tokenizer, encoding.get_ids());
    }
}
