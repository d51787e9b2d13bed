//! The Jinja environment that transformers gives a chat template.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::Value as Json;

use super::clock;
use super::{ChatError, ChatOptions, Content, Message, Part};

/// The work that a template may make: about as many instructions, or 64 bytes each. A conversation of a thousand
/// messages needs some tens of thousands.
const FUEL: u64 = 5_000_000;

/// What a template says by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Rewrites what is not Jinja but an extension of transformers': `{% generation %}` marks the assistant's words for
/// training and changes nothing in the text.
pub(super) fn prepare(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, behind) = tag.split_at(end);
        match tag[2..].trim_matches(['-', '+', ' ', '\t', '\n', '\r']) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn environment(now: Option<i64>) -> Result<Environment<'static>, ChatError> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|error| ChatError::Render(error.to_string()))?);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", to_json);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: String| -> Result<String, Error> {
        let failed = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
        let now = now.or_else(clock::now).ok_or_else(|| failed("there is no clock; set ChatOptions::now"))?;
        clock::strftime(now, &format).map_err(|code| failed(&format!("the code %{code} is not known")))
    });
    Ok(env)
}

/// Whether the template is Jinja.
pub(super) fn check(source: &str) -> Result<(), ChatError> {
    let env = environment(None)?;
    env.template_from_str(source).map(|_| ()).map_err(|error| ChatError::Syntax(explain(&error)))
}

pub(super) fn render(
    source: &str,
    tokens: &[(String, String)],
    messages: &[Message],
    options: &ChatOptions,
) -> Result<String, ChatError> {
    let env = environment(options.now)?;
    let template = env.template_from_str(source).map_err(|error| ChatError::Syntax(explain(&error)))?;
    // Templates ask whether these are there at all.
    let mut variables = vec![("tools".to_owned(), Value::from(())), ("documents".to_owned(), Value::from(()))];
    variables.extend(tokens.iter().map(|(name, token)| (name.clone(), Value::from(token))));
    variables.extend(options.variables.iter().map(|(name, value)| (name.clone(), from_json(value))));
    variables.push(("messages".to_owned(), messages.iter().map(message).collect::<Vec<_>>().into()));
    variables.push(("add_generation_prompt".to_owned(), options.add_generation_prompt.into()));
    template.render(Value::from_pairs(variables)).map_err(|error| {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return ChatError::Raised(message.clone());
            }
            source = cause.source();
        }
        ChatError::Render(explain(&error))
    })
}

/// The error with its line, and what caused it.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn message(message: &Message) -> Value {
    let content = match &message.content {
        Content::Text(text) => Value::from(text),
        Content::Parts(parts) => parts
            .iter()
            .map(|part| match part {
                Part::Image => Value::from_pairs([("type", "image")]),
                Part::Text(text) => Value::from_pairs([("type", "text"), ("text", text)]),
            })
            .collect::<Vec<_>>()
            .into(),
    };
    Value::from_pairs([("role", Value::from(&message.role)), ("content", content)])
}

fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), ..) => Value::from(n),
            (_, Some(n), _) => Value::from(n),
            (.., n) => Value::from(n.unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s),
        Json::Array(all) => all.iter().map(from_json).collect::<Vec<_>>().into(),
        Json::Object(all) => Value::from_pairs(all.iter().map(|(k, v)| (k, from_json(v)))),
    }
}

/// `tojson` as transformers has it: Python's `json.dumps` with all characters as they are, nothing escaped for HTML.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = indent.filter(|i| !i.is_none()).map(usize::try_from).transpose()?;
    // Python's other options are for files, not for templates.
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(value, indent.map(|i| i.min(16)), 0, &mut out)?;
    Ok(out)
}

/// Objects in objects at most: a value of a template cannot hold itself, but a caller's may be deep.
const DEPTH: usize = 64;

fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    let failed = |what: String| Error::new(ErrorKind::BadSerialization, what);
    if depth > DEPTH {
        return Err(failed("too deep for JSON".into()));
    }
    let line = |out: &mut String, depth: usize, first: bool| match indent {
        Some(width) => {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
        None if !first => out.push(' '),
        None => {}
    };
    let string = |out: &mut String, text: &str| -> Result<(), Error> {
        let quoted = serde_json::to_string(text).map_err(|error| failed(error.to_string()))?;
        out.push_str(&quoted);
        Ok(())
    };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => string(out, value.as_str().unwrap_or_default())?,
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            let map = value.kind() == ValueKind::Map;
            let (open, close) = if map { ('{', '}') } else { ('[', ']') };
            out.push(open);
            let mut first = true;
            for item in value.try_iter()? {
                if !first {
                    out.push(',');
                }
                line(out, depth + 1, first);
                first = false;
                if map {
                    string(out, &item.to_string())?;
                    out.push_str(": ");
                    write_json(&value.get_item(&item)?, indent, depth + 1, out)?;
                } else {
                    write_json(&item, indent, depth + 1, out)?;
                }
            }
            if !first && indent.is_some() {
                line(out, depth, first);
            }
            out.push(close);
        }
        other => return Err(failed(format!("a value of kind {other} is not JSON"))),
    }
    Ok(())
}
