use serde_json::json;

use super::*;

/// Templates and what Jinja2 made of them; see `testdata/make.py`.
const CASES: &str = include_str!("testdata/cases.json");

fn message(json: &Json) -> Message {
    let text = |v: &Json| v.as_str().unwrap().to_owned();
    let part = |p: &Json| if p["type"] == "image" { Part::Image } else { Part::Text(text(&p["text"])) };
    match &json["content"] {
        Json::Array(parts) => Message::parts(text(&json["role"]), parts.iter().map(part).collect()),
        content => Message::text(text(&json["role"]), text(content)),
    }
}

#[test]
fn templates_mean_what_they_mean_in_jinja2() {
    let all: Json = serde_json::from_str(CASES).unwrap();
    let tokens: Vec<_> =
        all["tokens"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect();
    for case in all["cases"].as_array().unwrap() {
        let template = ChatTemplate::new(case["template"].as_str().unwrap(), tokens.clone()).unwrap();
        let messages: Vec<_> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let options = ChatOptions {
            add_generation_prompt: case["prompt"].as_bool().unwrap(),
            variables: case["variables"].as_object().unwrap().clone(),
            now: all["now"].as_i64(),
        };
        match (template.render(&messages, &options), case["text"].as_str()) {
            (Ok(text), Some(want)) => assert_eq!(text, want, "{}", case["name"]),
            (Err(ChatError::Raised(message)), None) => assert_eq!(message, case["raised"].as_str().unwrap()),
            (got, want) => panic!("{}: {got:?}, expected {want:?}", case["name"]),
        }
    }
}

/// The template of a real language model, if the files beside the checkout are there.
#[test]
fn smollm2() {
    let shared = std::env::var("LENSLET_SHARED").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let read = |name: &str| std::fs::read(format!("{shared}/smollm2-135m-instruct/{name}")).ok();
    let [Some(jinja), Some(config), Some(special), Some(greedy)] =
        ["chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json", "greedy.json"].map(read)
    else {
        return println!("skipped: no smollm2-135m-instruct");
    };
    let files = ChatFiles {
        jinja: Some(&jinja),
        tokenizer_config: Some(&config),
        special_tokens: Some(&special),
        ..Default::default()
    };
    let template = ChatTemplate::from_files(&files, None).unwrap();
    let options = ChatOptions { add_generation_prompt: true, ..Default::default() };
    let text = template.render(&[Message::text("user", "What is the capital of France?")], &options).unwrap();
    let greedy: Json = serde_json::from_slice(&greedy).unwrap();
    assert_eq!(text, greedy["model.onnx"]["capital"]["prompt"].as_str().unwrap());
}

fn from_config(config: &Json, name: Option<&str>) -> Result<ChatTemplate, ChatError> {
    let config = serde_json::to_vec(config).unwrap();
    ChatTemplate::from_files(&ChatFiles { tokenizer_config: Some(&config), ..Default::default() }, name)
}

fn plain(template: &ChatTemplate) -> String {
    template.render(&[Message::text("user", "x")], &ChatOptions::default()).unwrap()
}

#[test]
fn templates_and_tokens_are_found_where_they_lie() {
    let one = json!({"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": {"content": "<s>"}});
    assert_eq!(plain(&from_config(&one, None).unwrap()), "<s>x");
    let many = json!({"chat_template": [
        {"name": "default", "template": "d{{ eos_token }}"}, {"name": "tool_use", "template": "t"}], "eos_token": "e"});
    assert_eq!(plain(&from_config(&many, None).unwrap()), "de");
    assert_eq!(plain(&from_config(&many, Some("tool_use")).unwrap()), "t");
    let error = from_config(&many, Some("rag")).unwrap_err();
    assert_eq!(error, ChatError::Unknown { name: "rag".into(), available: "default, tool_use".into() });
    assert_eq!(error.kind(), "chat_template_unknown");

    let config = serde_json::to_vec(&one).unwrap();
    let special = br#"{"bos_token": "no", "eos_token": {"content": "</s>", "lstrip": false}, "additional": ["a"]}"#;
    let mut files = ChatFiles { tokenizer_config: Some(&config), special_tokens: Some(special), ..Default::default() };
    files.json = Some(br#"{"chat_template": "json{{ bos_token }}{{ eos_token }}"}"#);
    assert_eq!(plain(&ChatTemplate::from_files(&files, None).unwrap()), "json<s></s>");
    files.jinja = Some(b"jinja{{ unk_token }}");
    assert_eq!(plain(&ChatTemplate::from_files(&files, None).unwrap()), "jinja");
}

#[test]
fn broken_files_and_templates_are_typed_errors() {
    let kind = |files: &ChatFiles<'_>| ChatTemplate::from_files(files, None).unwrap_err().kind();
    assert_eq!(kind(&ChatFiles::default()), "chat_template_missing");
    assert_eq!(kind(&ChatFiles { tokenizer_config: Some(b"{}"), ..Default::default() }), "chat_template_missing");
    assert_eq!(kind(&ChatFiles { tokenizer_config: Some(b"{"), ..Default::default() }), "chat_template_file");
    assert_eq!(kind(&ChatFiles { jinja: Some(b"\xff"), ..Default::default() }), "chat_template_file");
    for source in ["{% if %}", "{{ a", "{% for x in y %}", "{% nonsense %}", "{% include 'secrets' %}"] {
        let error = ChatTemplate::new(source, vec![]).unwrap_err();
        assert_eq!(error.kind(), "chat_template_syntax", "{source}");
    }
    let render = |source: &str| {
        ChatTemplate::new(source, vec![]).unwrap().render(&[Message::text("user", "x")], &ChatOptions::default())
    };
    let error = render("\n\n{{ nothing.at.all }}").unwrap_err();
    assert_eq!(error.kind(), "chat_template_failed");
    assert!(error.to_string().contains(":3"), "the line is named: {error}");
    assert_eq!(render("{{ raise_exception('no pictures') }}"), Err(ChatError::Raised("no pictures".into())));
    assert_eq!(render("{{ strftime_now('%Q') }}").unwrap_err().kind(), "chat_template_failed");
    assert_eq!(render("{{ messages | unknown }}").unwrap_err().kind(), "chat_template_failed");
}

#[test]
fn a_template_cannot_run_for_ever() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
    let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    let large = "{{ 'x' * 99999999999 }}";
    for source in [loops, deep, large] {
        let template = ChatTemplate::new(source, vec![]).unwrap();
        assert_eq!(template.render(&[], &ChatOptions::default()).unwrap_err().kind(), "chat_template_failed");
    }
}
