//! Another server as an engine: towers by the Open Inference Protocol (Triton, OpenVINO, KServe), texts by OpenAI's interface
//! (vLLM). A second Lenslet server speaks both.

mod chat;
mod http;
mod towers;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lenslet::tensor::Tensor;

use super::{Engine, Slot, Specs, Step, Task, TowerCall, WarmUp, WriterKind};
use crate::chat::ChatPrompt;
use crate::config::Config;
use crate::error::ServeError;
use chat::Stream;
use http::Http;

/// How long a step waits for any of its texts to go on, before new texts get a look in.
const STEP: Duration = Duration::from_millis(20);

/// A model on another server.
pub struct RemoteEngine {
    http: Arc<Http>,
    base: String,
    model: String,
    /// The protocol's names of the towers.
    names: Vec<String>,
    specs: Specs,
    /// Whether it goes on with texts that were begun elsewhere.
    resumes: bool,
}

impl RemoteEngine {
    /// Asks the server what it has of this model. `fingerprint` is what the local folder says, if there is one.
    ///
    /// # Errors
    /// It does not answer, has no such model, or has another version of it than the local folder.
    pub async fn connect(config: &Config, model: &str, fingerprint: Option<&str>) -> Result<RemoteEngine, ServeError> {
        let timeout = Duration::from_secs_f64(config.limits.request_timeout_s);
        let http = Arc::new(Http::new(&config.remote, timeout)?);
        let base = config.remote.url.clone().unwrap_or_default();
        let (mut names, mut specs, mut resumes) = (vec![], Specs::default(), false);
        for tower in ["image", "text", "model"] {
            let Some(found) = towers::find(&http, model, tower).await? else { continue };
            if let (Some(here), Some(there)) = (fingerprint, &found.fingerprint)
                && here != there
            {
                let what = format!("{base} has another version of {model} (fingerprint {there}, here {here})");
                return Err(ServeError::internal("remote_fingerprint", what));
            }
            names.push(found.name);
            specs.towers.push(found.spec);
        }
        if specs.towers.is_empty() {
            let listed = http.get_json(&format!("/v1/models/{model}")).await?;
            let listed = listed.ok_or_else(|| {
                ServeError::internal("remote_model", format!("{base} has no model {model}; name one that it has"))
            })?;
            let takes =
                |what: &str| listed["lenslet"]["inputs"].as_array().is_some_and(|all| all.contains(&what.into()));
            specs.hands_on = true;
            resumes = listed["lenslet"].is_object();
            specs.tokenizer = listed["lenslet"]["tokenizer"].as_str().map(str::to_owned);
            specs.writer = Some(match (takes("text"), takes("image")) {
                (true, false) => WriterKind::Text,
                (false, true) => WriterKind::Captioner,
                _ => WriterKind::Any,
            });
        }
        Ok(RemoteEngine { http, base, model: model.to_owned(), names, specs, resumes })
    }
}

impl Engine for RemoteEngine {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn device(&self) -> String {
        self.base.clone()
    }

    fn specs(&self) -> &Specs {
        &self.specs
    }

    /// The server behind warms itself up; one row shows that it answers.
    fn warm_up(&self, sizes: WarmUp) -> Task<'_, Result<(), ServeError>> {
        Box::pin(async move {
            for (tower, spec) in self.specs.towers.iter().enumerate() {
                let outputs = spec.outputs.iter().map(|output| output.name.clone()).collect();
                self.run(TowerCall { tower, inputs: WarmUp { rows: 1, ..sizes }.inputs(spec)?, outputs }).await?;
            }
            Ok(())
        })
    }

    fn run(&self, call: TowerCall) -> Task<'_, Result<Vec<Tensor>, ServeError>> {
        Box::pin(async move {
            let name = self.names.get(call.tower);
            let name = name.ok_or_else(|| ServeError::internal("tower_absent", "the model has no such tower"))?;
            towers::run(&self.http, name, &call).await
        })
    }

    /// Returns at once: the prompt is read there, while the other texts go on. What is wrong with it comes with the first step.
    fn begin(&self, prompt: Arc<ChatPrompt>) -> Task<'_, Result<Slot, ServeError>> {
        if prompt.resume.is_some() && !self.resumes {
            let what = format!("{} begins every text anew; leave out lenslet.resume_tokens", self.base);
            return Box::pin(async move { Err(ServeError::bad_request("unsupported", what).at("lenslet")) });
        }
        let stream = chat::begin(self.http.clone(), &self.model, &prompt);
        Box::pin(async move { Ok(Slot(Box::new(stream))) })
    }

    fn decode_step<'a>(&'a self, slots: &'a mut [Slot]) -> Task<'a, Vec<Option<Result<Step, ServeError>>>> {
        Box::pin(async move {
            let any = std::future::poll_fn(|cx| {
                let steps: Vec<_> = slots.iter_mut().map(|slot| poll(slot, cx)).collect();
                if steps.iter().any(Option::is_some) { Poll::Ready(steps) } else { Poll::Pending }
            });
            let steps = tokio::time::timeout(STEP, any).await.ok();
            steps.unwrap_or_else(|| slots.iter().map(|_| None).collect())
        })
    }
}

/// A text's next step, if it is there.
fn poll(slot: &mut Slot, cx: &mut std::task::Context<'_>) -> Option<Result<Step, ServeError>> {
    let ended = || ServeError::internal("text_ended", "this text has ended");
    match slot.0.downcast_mut::<Stream>() {
        None => Some(Err(ended())),
        Some(stream) => match stream.steps.poll_recv(cx) {
            Poll::Ready(step) => Some(step.unwrap_or_else(|| Err(ended()))),
            Poll::Pending => None,
        },
    }
}
