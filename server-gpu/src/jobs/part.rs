//! Parts of jobs and their answers, as they lie in the queue and in the store: JSON, so that an operator's tools can show them;
//! vectors and pictures in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cache::Embedding;
use crate::config::MAX_PART_INPUTS;
use crate::error::{Reason, ServeError};

/// Some inputs of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// At least one.
    pub inputs: Vec<PartInput>,
}

/// One thing to embed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartInput {
    /// Words.
    Text(String),
    /// Words as the client's tokenizer cut them.
    Tokens(Vec<u32>),
    /// A picture's file.
    Image(#[serde(with = "file")] Bytes),
    /// A picture's file of so many bytes, beside the queue; its name follows from its place.
    StoredImage(usize),
    /// What the server that accepted the job knew already.
    Known(Vector),
}

/// A vector as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// Little-endian 32-bit floats.
    #[serde(with = "floats")]
    pub embedding: Vec<f32>,
    /// Tokens of the text; 0 of a picture.
    pub tokens: usize,
}

impl From<&Embedding> for Vector {
    fn from(embedding: &Embedding) -> Vector {
        Vector { embedding: embedding.values.clone(), tokens: embedding.tokens }
    }
}

/// Why an input has no vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable name, as in [`ServeError::code`].
    pub code: String,
    /// For people.
    pub message: String,
}

impl From<&ServeError> for Failure {
    fn from(error: &ServeError) -> Failure {
        // Answers of all inputs share a message of the store.
        Failure { code: error.code.clone().into_owned(), message: error.message.chars().take(300).collect() }
    }
}

/// What became of an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Its vector.
    Vector(Vector),
    /// It cannot be embedded.
    Refused(Failure),
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartAnswer {
    /// In the order of its inputs. Inputs beyond were given up with the part.
    pub answers: Vec<Answer>,
    /// Why the part was given up, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<Failure>,
}

impl Part {
    /// Reads a part. It may come from anybody who can write to the queue.
    ///
    /// # Errors
    /// It is no part, or larger than servers of ours make them.
    pub fn read(payload: &[u8], max_text_bytes: usize) -> Result<Part, ServeError> {
        let broken = |what: String| ServeError::bad_request("malformed_part", what);
        let part: Part =
            serde_json::from_slice(payload).map_err(|e| broken(format!("the message is no part of a job: {e}")))?;
        if !(1..=MAX_PART_INPUTS).contains(&part.inputs.len()) {
            return Err(broken(format!("{} inputs, where there must be 1 to {MAX_PART_INPUTS}", part.inputs.len())));
        }
        let long = |input: &PartInput| match input {
            PartInput::Text(text) => text.len() > max_text_bytes,
            PartInput::Tokens(ids) => ids.is_empty() || ids.len() > max_text_bytes,
            _ => false,
        };
        if part.inputs.iter().any(long) {
            return Err(ServeError::new(
                Reason::TooLarge,
                "text_too_long",
                "a text is longer than this worker's limit",
            ));
        }
        Ok(part)
    }
}

impl PartAnswer {
    /// Reads what a worker wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn read(bytes: &[u8]) -> Result<PartAnswer, ServeError> {
        serde_json::from_slice(bytes)
            .map_err(|e| ServeError::internal("malformed_result", format!("a stored result cannot be read: {e}")))
    }

    /// Whether an input has no vector.
    pub fn refuses(&self) -> bool {
        self.dead.is_some() || self.answers.iter().any(|answer| matches!(answer, Answer::Refused(_)))
    }

    /// The answer for each of so many inputs.
    pub fn into_answers(mut self, inputs: usize) -> Vec<Answer> {
        let unknown = || Failure {
            code: "part_incomplete".into(),
            message: "the worker left this input out; send it again".into(),
        };
        let rest = Answer::Refused(self.dead.unwrap_or_else(unknown));
        self.answers.resize(inputs, rest);
        self.answers
    }
}

/// Bytes as text.
mod file {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}

/// Numbers as text.
mod floats {
    use super::*;

    pub(super) fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let bytes = file::deserialize(deserializer)?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(D::Error::custom("a vector whose bytes are no whole numbers"));
        }
        Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_they_were_written() {
        let vector = Vector { embedding: vec![1.5, -0.25, f32::MIN_POSITIVE], tokens: 3 };
        let inputs = vec![
            PartInput::Text("a \"cat\"\n".into()),
            PartInput::Tokens(vec![1, u32::MAX]),
            PartInput::Image(Bytes::from_static(b"\x89PNG\0")),
            PartInput::StoredImage(3_000_000),
            PartInput::Known(vector.clone()),
        ];
        let part = Part { inputs };
        assert_eq!(Part::read(&serde_json::to_vec(&part).unwrap(), 100).unwrap(), part);
        let failure = Failure { code: "image_decode".into(), message: "no picture".into() };
        let answer = PartAnswer { answers: vec![Answer::Vector(vector), Answer::Refused(failure)], dead: None };
        assert_eq!(PartAnswer::read(&serde_json::to_vec(&answer).unwrap()).unwrap(), answer);
        assert!(answer.refuses());
    }

    #[test]
    fn what_is_no_part_is_refused() {
        let many = format!("{{\"inputs\":[{}{{\"text\":\"a\"}}]}}", "{\"text\":\"a\"},".repeat(MAX_PART_INPUTS));
        for (payload, code) in [
            ("", "malformed_part"),
            ("{\"inputs\":[]}", "malformed_part"),
            ("{\"inputs\":[{\"text\":\"a\"}],\"run\":1}", "malformed_part"),
            ("{\"inputs\":[{\"command\":\"rm\"}]}", "malformed_part"),
            ("{\"inputs\":[{\"image\":\"*\"}]}", "malformed_part"),
            ("{\"inputs\":[{\"known\":{\"embedding\":\"AAA=\",\"tokens\":0}}]}", "malformed_part"),
            ("{\"inputs\":[{\"tokens\":[-1]}]}", "malformed_part"),
            ("{\"inputs\":[{\"tokens\":[]}]}", "text_too_long"),
            ("{\"inputs\":[{\"text\":\"twelve bytes\"}]}", "text_too_long"),
            (&"[".repeat(100_000), "malformed_part"),
            (&many, "malformed_part"),
        ] {
            let shown: String = payload.chars().take(80).collect();
            assert_eq!(Part::read(payload.as_bytes(), 10).unwrap_err().code, code, "{shown}");
        }
    }

    #[test]
    fn inputs_without_an_answer_share_the_fate_of_their_part() {
        let why = Failure { code: "malformed_part".into(), message: "x".into() };
        let dead = PartAnswer { answers: vec![], dead: Some(why.clone()) };
        assert_eq!(dead.into_answers(2), [Answer::Refused(why.clone()), Answer::Refused(why)]);
    }
}
