//! `/openapi.json`: the interface, with this server's models and limits in it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::app::App;

/// The document (OpenAPI 3.1).
pub(super) async fn document(State(app): State<Arc<App>>) -> Json<Value> {
    Json(build(&app))
}

fn build(app: &App) -> Value {
    let mut paths = Map::new();
    for (path, method, operation) in operations(app.config.jobs.enabled()) {
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[method] = operation;
    }
    let secured = !app.keys.is_empty();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lenslet-server",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Embeddings and chat as OpenAI's interface has them, and the Open Inference Protocol, version 2.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "security": if secured { json!([{ "key": [] }]) } else { json!([]) },
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(app),
        },
    })
}

/// An answer of this schema, and the errors of its interface.
fn answers(media: &str, schema: Value, error: &str) -> Value {
    let body = |schema: Value| json!({ "application/json": { "schema": schema } });
    let error = json!({ "description": "refused", "content": body(json!({ "$ref": format!("#/components/schemas/{error}") })) });
    json!({
        "200": { "description": "answered", "content": { media: { "schema": schema } } },
        "4XX": error,
        "5XX": error,
    })
}

/// The name in a path, if there is one: of a model or of a tower.
fn named(schema: Option<&str>) -> Vec<Value> {
    let one = |schema: &str| json!({ "name": "model", "in": "path", "required": true, "schema": reference(schema) });
    schema.map(one).into_iter().collect()
}

fn get(summary: &str, schema: &str, error: &str, name: Option<&str>) -> Value {
    json!({
        "summary": summary,
        "parameters": named(name),
        "responses": answers("application/json", reference(schema), error),
    })
}

fn post(summary: &str, request: &Value, responses: &Value, name: Option<&str>) -> Value {
    let mut parameters = named(name);
    let priorities = json!({ "enum": ["high", "normal", "low"] });
    parameters.push(json!({ "name": super::gate::PRIORITY, "in": "header", "schema": priorities }));
    let timeout = super::gate::TIMEOUT;
    json!({
        "summary": summary,
        "description": format!("The header `{timeout}` says after how many milliseconds the answer is of no use; it is 504 then."),
        "parameters": parameters,
        "requestBody": { "required": true, "content": request },
        "responses": responses,
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn operations(jobs: bool) -> Vec<(&'static str, &'static str, Value)> {
    let body = |schema: &str| json!({ "application/json": { "schema": reference(schema) } });
    let mut embeddings = body("EmbeddingsRequest");
    embeddings["multipart/form-data"] = json!({ "schema": reference("EmbeddingsForm") });
    let mut chat = answers("application/json", reference("Chat"), "Error");
    chat["200"]["content"]["text/event-stream"] = json!({ "schema": { "type": "string" } });
    let mut infer = body("InferRequest");
    infer["application/octet-stream"] = json!({ "schema": { "type": "string", "format": "binary" } });
    let mut inferred = answers("application/json", reference("InferResponse"), "OipError");
    inferred["200"]["content"]["application/octet-stream"] =
        json!({ "schema": { "type": "string", "format": "binary" } });
    let embedded = answers("application/json", reference("Embeddings"), "Error");
    let text = answers("text/plain", json!({ "type": "string" }), "Error");
    let (model, tower) = (Some("ModelName"), Some("TowerName"));
    let mut all = vec![
        ("/v1/embeddings", "post", post("Vectors of texts and pictures", &embeddings, &embedded, None)),
        ("/v1/chat/completions", "post", post("The answer to a conversation", &body("ChatRequest"), &chat, None)),
        ("/v1/models", "get", get("All models", "ModelList", "Error", None)),
        ("/v1/models/{model}", "get", get("One model", "Model", "Error", model)),
        ("/v2", "get", get("The server", "Any", "OipError", None)),
        ("/v2/health/live", "get", get("Whether the process lives", "Any", "Any", None)),
        ("/v2/health/ready", "get", get("Whether requests are taken", "Any", "Any", None)),
        ("/v2/models/{model}", "get", get("Inputs and outputs of a tower", "Any", "OipError", tower)),
        ("/v2/models/{model}/ready", "get", get("Whether a tower is there", "Any", "OipError", tower)),
        ("/v2/models/{model}/infer", "post", post("Runs a tower", &infer, &inferred, tower)),
        ("/metrics", "get", json!({ "summary": "What is counted, for Prometheus", "responses": text })),
        ("/openapi.json", "get", get("This document", "Any", "Error", None)),
    ];
    if jobs {
        all.extend(job_operations(&embeddings));
    }
    all
}

/// Asynchronous jobs, where there are any. `request` is that of embeddings.
fn job_operations(request: &Value) -> [(&'static str, &'static str, Value); 3] {
    let mut job_request = request.clone();
    job_request["application/json"]["schema"] = reference("JobRequest");
    let mut accepted = answers("application/json", reference("Job"), "Error");
    accepted["202"] = accepted["200"].take();
    if let Some(accepted) = accepted.as_object_mut() {
        accepted.remove("200");
    }
    let mut submit = post("Embeddings that are made when there is time", &job_request, &accepted, None);
    let key = json!({ "type": "string", "minLength": 1, "maxLength": super::jobs::MAX_KEY });
    if let Some(parameters) = submit["parameters"].as_array_mut() {
        parameters.push(json!({
            "name": super::jobs::IDEMPOTENCY_KEY,
            "in": "header",
            "schema": key,
            "description": "Two requests with one value make one job.",
        }));
    }
    let mut one = ["Where a job stands", "The vectors of a job that has ended"].map(|summary| {
        let schema = if summary.starts_with("Where") { "Job" } else { "JobResult" };
        let mut operation = get(summary, schema, "Error", None);
        operation["parameters"] =
            json!([{ "name": "id", "in": "path", "required": true, "schema": { "type": "string", "pattern": "^job_[0-9a-f]{32}$" } }]);
        operation
    });
    let (status, result) = (one[0].take(), one[1].take());
    [("/v1/jobs", "post", submit), ("/v1/jobs/{id}", "get", status), ("/v1/jobs/{id}/result", "get", result)]
}

fn schemas(app: &App) -> Value {
    let limits = &app.config.limits;
    let name = |names: Vec<String>| match names.is_empty() {
        true => json!({ "type": "string" }),
        false => json!({ "type": "string", "enum": names }),
    };
    let loaded = app.models.get();
    let towers = name(loaded.map(super::oip::names).unwrap_or_default());
    let models = name(loaded.iter().flat_map(|m| m.all()).map(|model| model.name.clone()).collect());
    let model = reference("ModelName");
    let object = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required });
    let text = json!({ "type": "string", "maxLength": limits.max_text_bytes });
    let url = json!({ "type": "string", "description": "a data URL: nothing is fetched", "pattern": "^data:" });
    let image_url = object(
        json!({ "type": { "const": "image_url" }, "image_url": object(json!({ "url": url }), &["url"]) }),
        &["type", "image_url"],
    );
    let text_part = object(json!({ "type": { "const": "text" }, "text": text }), &["type", "text"]);
    let hash = json!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" });
    let hash_part = object(json!({ "type": { "const": "image_sha256" }, "sha256": hash }), &["type", "sha256"]);
    let ids = json!({ "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1 });
    let ids_or_none = json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } });
    let input = json!({ "anyOf": [text, ids, text_part, image_url, hash_part] });
    let inputs = json!({ "type": "array", "items": input, "minItems": 1, "maxItems": limits.max_inputs });
    let job_inputs = json!({ "type": "array", "items": input, "minItems": 1, "maxItems": app.config.jobs.max_inputs });
    let encoding = json!({ "enum": ["float", "base64"] });
    let dimensions = json!({ "type": "integer", "minimum": 1 });
    let content =
        json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "anyOf": [text_part, image_url] } }] });
    let role = json!({ "enum": ["system", "developer", "user", "assistant"] });
    let message = object(json!({ "role": role, "content": content }), &["role", "content"]);
    let positive = json!({ "type": "integer", "minimum": 1 });
    let usage = json!({ "type": "object" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let error = object(
        json!({ "message": { "type": "string" }, "type": { "type": "string" }, "code": { "type": "string" } }),
        &["message", "type", "code"],
    );
    let tensor = object(
        json!({
            "name": { "type": "string" },
            "datatype": { "enum": ["FP32", "FP16", "INT64", "INT32", "INT8", "UINT8", "BOOL"] },
            "shape": { "type": "array", "items": { "type": "integer", "minimum": 0 }, "maxItems": 8 },
            "data": { "type": "array" },
            "parameters": { "type": "object" },
        }),
        &["name", "datatype", "shape"],
    );
    json!({
        "Any": { "type": "object" },
        "ModelName": models,
        "TowerName": towers,
        "Error": object(json!({ "error": error }), &["error"]),
        "OipError": object(json!({ "error": { "type": "string" }, "code": { "type": "string" } }), &["error"]),
        "Model": object(json!({ "id": { "type": "string" }, "object": { "const": "model" } }), &["id", "object"]),
        "ModelList": object(json!({ "data": { "type": "array", "items": reference("Model") } }), &["data"]),
        "EmbeddingsRequest": object(
            json!({ "model": model, "input": { "anyOf": [text, ids, inputs] }, "encoding_format": encoding, "dimensions": dimensions }),
            &["model", "input"],
        ),
        "EmbeddingsForm": object(
            json!({
                "model": model,
                "input": { "type": "string" },
                "image": { "type": "string", "format": "binary" },
                "encoding_format": encoding,
                "dimensions": dimensions,
            }),
            &["model"],
        ),
        "JobRequest": object(
            json!({
                "model": model,
                "input": { "anyOf": [text, ids, job_inputs] },
                "encoding_format": encoding,
                "dimensions": dimensions,
                "endpoint": { "const": "/v1/embeddings" },
                "idempotency_key": { "type": "string", "minLength": 1, "maxLength": super::jobs::MAX_KEY },
            }),
            &["model", "input"],
        ),
        "Job": object(
            json!({
                "id": { "type": "string" },
                "object": { "const": "job" },
                "status": { "enum": ["queued", "running", "succeeded", "failed", "dead"] },
                "request_counts": object(json!({ "total": count, "completed": count, "failed": count }), &["total", "completed", "failed"]),
                "created_at": count,
                "finished_at": { "type": ["integer", "null"] },
                "expires_at": count,
            }),
            &["id", "object", "status", "request_counts"],
        ),
        "JobResult": object(json!({ "data": { "type": "array" }, "model": { "type": "string" }, "usage": usage }), &["data", "model", "usage"]),
        "Embeddings": object(json!({ "data": { "type": "array" }, "model": { "type": "string" }, "usage": usage }), &["data", "model", "usage"]),
        "ChatRequest": object(
            json!({
                "model": model,
                "messages": { "type": "array", "items": message, "minItems": 1 },
                "stream": { "type": "boolean" },
                "stream_options": object(json!({ "include_usage": { "type": "boolean" } }), &[]),
                "max_tokens": positive,
                "max_completion_tokens": positive,
                "temperature": { "type": "number", "minimum": 0, "maximum": 2 },
                "top_p": { "type": "number", "minimum": 0, "maximum": 1 },
                "seed": { "type": "integer" },
                "n": { "const": 1 },
                "lenslet": object(json!({ "resume_tokens": ids_or_none, "resume_text": { "type": "string" } }), &[]),
                "stop": { "anyOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": { "type": "string", "minLength": 1 }, "maxItems": 16 }] },
            }),
            &["model", "messages"],
        ),
        "Chat": object(json!({ "id": { "type": "string" }, "choices": { "type": "array" }, "usage": usage }), &["id", "choices", "usage"]),
        "InferRequest": object(
            json!({ "id": { "type": "string" }, "inputs": { "type": "array", "items": tensor }, "outputs": { "type": "array", "items": { "type": "object" } }, "parameters": { "type": "object" } }),
            &["inputs"],
        ),
        "InferResponse": object(json!({ "model_name": { "type": "string" }, "outputs": { "type": "array" } }), &["model_name", "outputs"]),
    })
}
