//! A server that runs models in place of this machine: a small client of `lenslet-server`, which waits.

mod chat;
mod error;
mod http;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use chat::{ChatRequest, ChatStream, Chosen};
pub use error::ClientError;
use http::Http;
use lenslet::tasks::classify::Scoring;
use lenslet::tasks::fingerprint::Fingerprint;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Texts of one request at most.
const MOST_INPUTS: usize = 64;

/// A larger picture is asked for by its hash first: the server may have seen it.
const HASH_FIRST: usize = 16 << 10;

/// A server.
pub struct Client {
    http: Http,
}

/// A model that gives vectors, on a server.
pub struct RemoteTower {
    /// The server's name of it.
    pub name: String,
    /// Identifies its vectors.
    pub fingerprint: Fingerprint,
    /// The length of its vectors.
    pub dimensions: usize,
    /// How similarities become probabilities.
    pub scoring: Scoring,
}

impl Client {
    /// A client of the server at this address, `http://host:port`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Address`], and [`ClientError::NoHttps`] where this build cannot speak it.
    pub fn new(url: &str, key: Option<String>) -> Result<Client, ClientError> {
        Ok(Client { http: Http::new(url, key)? })
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        self.http.base()
    }

    /// What the server says of a model.
    fn describe(&self, model: &str) -> Result<Value, ClientError> {
        let list = self.http.get("/v1/models")?;
        let all = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(found) = all.iter().find(|listed| listed["id"] == model) {
            return Ok(found["lenslet"].clone());
        }
        let known: Vec<&str> = all.iter().filter_map(|listed| listed["id"].as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(ClientError::NoModel { server: self.server().to_owned(), model: model.to_owned(), known })
    }

    /// A model that gives vectors.
    ///
    /// # Errors
    /// The server cannot be asked, has no such model, or the model does something else.
    pub fn tower(&self, model: &str) -> Result<RemoteTower, ClientError> {
        let own = self.describe(model)?;
        let fingerprint = own["fingerprint"].as_str().and_then(|text| text.parse().ok());
        let dimensions = own["dimensions"].as_u64().and_then(|n| usize::try_from(n).ok());
        let (Some(fingerprint), Some(dimensions)) = (fingerprint, dimensions) else {
            let server = self.server().to_owned();
            return Err(ClientError::Task { server, model: model.to_owned(), task: "give vectors" });
        };
        let number = |name: &str| own["scoring"][name].as_f64().map(|number| number as f32);
        let scoring = match (number("scale"), number("bias")) {
            (Some(scale), Some(bias)) => Scoring::Sigmoid { scale, bias },
            (Some(scale), None) => Scoring::Softmax { scale },
            (None, _) => Scoring::from_config(&Default::default()),
        };
        Ok(RemoteTower { name: model.to_owned(), fingerprint, dimensions, scoring })
    }

    /// The vectors of texts.
    ///
    /// # Errors
    /// Any [`ClientError`]; a server that changed its model since [`Client::tower`] is [`ClientError::Failed`].
    pub fn embed_texts(&self, tower: &RemoteTower, texts: &[&str]) -> Result<Vec<Vec<f32>>, ClientError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for part in texts.chunks(MOST_INPUTS) {
            vectors.extend(self.embed(tower, json!(part), part.len())?);
        }
        Ok(vectors)
    }

    /// The vector of a picture's file. The server is asked whether it knows the picture, before a large one is sent.
    ///
    /// # Errors
    /// As [`Client::embed_texts`].
    pub fn embed_picture(&self, tower: &RemoteTower, file: &[u8]) -> Result<Vec<f32>, ClientError> {
        if file.len() > HASH_FIRST {
            let digest: String = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
            match self.embed(tower, json!([{ "type": "image_sha256", "sha256": digest }]), 1) {
                Ok(vectors) => return Ok(vectors.into_iter().next().unwrap_or_default()),
                Err(ClientError::Rejected { code, .. }) if code == "content_not_cached" => {}
                Err(error) => return Err(error),
            }
        }
        let vectors = self.embed(tower, json!([picture(file)]), 1)?;
        Ok(vectors.into_iter().next().unwrap_or_default())
    }

    fn embed(&self, tower: &RemoteTower, input: Value, count: usize) -> Result<Vec<Vec<f32>>, ClientError> {
        let body = json!({ "model": tower.name, "input": input, "encoding_format": "base64" });
        let answer = self.http.post("/v1/embeddings", &body)?;
        let failed = |message: String| ClientError::Failed { server: self.server().to_owned(), message };
        if answer["lenslet"]["fingerprint"] != tower.fingerprint.to_string() {
            return Err(failed(format!(
                "it changed its model {} meanwhile: vectors of both do not compare",
                tower.name
            )));
        }
        let data = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let vector = |one: &Value| floats(one["embedding"].as_str()?).filter(|vector| vector.len() == tower.dimensions);
        let vectors: Option<Vec<_>> = data.iter().map(vector).collect();
        let vectors = vectors.filter(|vectors| vectors.len() == count);
        vectors.ok_or_else(|| failed("its answer does not hold the vectors that were asked for".into()))
    }

    /// Begins a text.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn chat(&self, request: &ChatRequest) -> Result<ChatStream, ClientError> {
        ChatStream::begin(&self.http, request, |model| self.describe(model).map(drop))
    }
}

/// A picture's file as a part of a request.
fn picture(file: &[u8]) -> Value {
    let url = format!("data:application/octet-stream;base64,{}", STANDARD.encode(file));
    json!({ "type": "image_url", "image_url": { "url": url } })
}

/// Little-endian floats in base64.
fn floats(text: &str) -> Option<Vec<f32>> {
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() % 4 == 0)?;
    Some(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
}
