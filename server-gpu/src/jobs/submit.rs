//! Taking a job: its inputs become parts in the queue, and then it is there.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::record::{job_id, record_name, request_digest, run_id};
use super::{Jobs, PartInput, Queued, Record, Shelf, unavailable};
use crate::api::input::Encoding;
use crate::app::App;
use crate::embed::{Input, known};
use crate::error::{Reason, ServeError};
use crate::hosted::Hosted;
use crate::metrics;

/// Large pictures that are on their way into the store at once.
const PICTURES_AT_ONCE: usize = 8;

/// A job as somebody asks for it.
pub(crate) struct Submission {
    /// The model.
    pub(crate) model: Arc<Hosted>,
    /// What to embed.
    pub(crate) inputs: Vec<Input>,
    /// Length of the vectors.
    pub(crate) dimensions: usize,
    /// How they shall be written.
    pub(crate) encoding: Encoding,
    /// The key that it will belong to.
    pub(crate) owner: Option<String>,
    /// What makes this request the same as an earlier one.
    pub(crate) idempotency_key: Option<String>,
    /// SHA-256 of the request.
    pub(crate) request: [u8; 32],
}

/// Accepts a job, or finds the one that the same request made before.
///
/// # Errors
/// [`Reason::Unprocessable`] if another request had this idempotency key, [`Reason::TooLarge`] for a text that no message can
/// hold, [`Reason::Overloaded`] if there is no room, `content_not_cached` for hashes that are not known, and
/// [`Reason::Unavailable`].
pub(crate) async fn submit(app: &App, jobs: &Jobs, submission: Submission) -> Result<Record, ServeError> {
    let Submission { model, inputs, dimensions, encoding, owner, idempotency_key, request } = submission;
    let (settings, fingerprint) = (&app.config.jobs, &model.fingerprint);
    if fingerprint.is_empty() {
        let what =
            format!("the files of {} are not here, so that workers cannot tell whether they have the same", model.name);
        return Err(ServeError::bad_request("model_task", what).at("model"));
    }
    let id = job_id(owner.as_deref(), idempotency_key.as_deref())?;
    if idempotency_key.is_some()
        && let Some(earlier) = jobs.record(&id).await?
    {
        return same_request(earlier, &request);
    }
    let run = run_id(&id, &request);
    let mut split = Split::new(jobs.queue.max_payload()?, settings.part_inputs, model.dimensions.unwrap_or(0))?;
    let mut stored = vec![];
    for (index, input) in inputs.into_iter().enumerate() {
        let input = match input {
            Input::Text(text) => PartInput::Text(text),
            Input::Tokens(ids) => PartInput::Tokens(ids),
            Input::Picture(file) => PartInput::Image(file),
            Input::PictureHash(digest) => {
                let found = known(app, &model, &digest).await;
                PartInput::Known((&*found.ok_or_else(|| crate::api::embeddings::not_cached(&[index]))?).into())
            }
        };
        let file = split.push(input).map_err(|e| e.at(format!("input[{index}]")))?;
        stored.extend(file);
    }
    let (payloads, parts) = split.finish();
    let put = |Stored { part, place, file }| {
        let name = picture_name(&run, part, place);
        async move { jobs.store.put_picture(&name, file).await }
    };
    stream::iter(stored).map(put).buffer_unordered(PICTURES_AT_ONCE).try_for_each(async |()| Ok(())).await?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let record = Record {
        run,
        owner,
        request: request_digest(&request),
        model: model.name.clone(),
        fingerprint: fingerprint.clone(),
        created,
        expires: created + settings.retention_s as u64,
        dimensions,
        encoding,
        parts,
        id,
    };
    let queued = payloads.into_iter().enumerate();
    let queued = queued.map(|(part, payload)| Queued { address: record.address(part), payload }).collect();
    jobs.queue.publish(fingerprint, queued).await?;
    match jobs.write_record(&record).await? {
        true => {
            metrics::job_accepted(record.inputs());
            Ok(record)
        }
        // The same request was sent twice at the same time.
        false => {
            let earlier = jobs.record(&record.id).await?;
            same_request(earlier.ok_or_else(|| unavailable("the job is there, but cannot be read"))?, &request)
        }
    }
}

/// The name of a picture that is too large for its part.
pub(super) fn picture_name(run: &str, part: u32, place: usize) -> String {
    format!("{run}.{part}.{place}")
}

fn same_request(earlier: Record, request: &[u8; 32]) -> Result<Record, ServeError> {
    if earlier.request == request_digest(request) {
        return Ok(earlier);
    }
    let what = "this idempotency key came with another request before; give each job its own";
    Err(ServeError::new(Reason::Unprocessable, "idempotency_key_reused", what).at("idempotency_key"))
}

impl Jobs {
    /// The record of a job.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn record(&self, id: &str) -> Result<Option<Record>, ServeError> {
        let Some(name) = record_name(id) else { return Ok(None) };
        let bytes = self.store.get(Shelf::Jobs, &name).await?;
        let read = |bytes: Bytes| {
            serde_json::from_slice(&bytes)
                .map_err(|e| ServeError::internal("malformed_record", format!("the job's record cannot be read: {e}")))
        };
        bytes.map(read).transpose()
    }

    async fn write_record(&self, record: &Record) -> Result<bool, ServeError> {
        let name =
            record_name(&record.id).ok_or_else(|| ServeError::internal("malformed_record", "the job has no id"))?;
        let bytes = serde_json::to_vec(record).map_err(|e| ServeError::internal("malformed_record", e.to_string()))?;
        self.store.create(Shelf::Jobs, &name, bytes.into()).await
    }
}

/// A picture that is kept beside the queue.
struct Stored {
    part: u32,
    place: usize,
    file: Bytes,
}

/// Cuts inputs into parts that messages can hold, and whose answers messages can hold.
struct Split {
    /// Bytes of a part.
    most: usize,
    /// Inputs of a part.
    inputs: usize,
    payloads: Vec<Bytes>,
    sizes: Vec<u32>,
    /// The part that is being written, without its end.
    open: String,
    count: u32,
}

const BEGIN: &str = "{\"inputs\":[";
const END: &str = "]}";

/// Bytes of an answer besides the numbers of its vector.
const ANSWER: usize = 80;

impl Split {
    fn new(max_payload: usize, inputs: usize, dimensions: usize) -> Result<Split, ServeError> {
        // Four bytes of a number become less than six in base64.
        let answers = max_payload / (dimensions * 6 + ANSWER);
        if answers == 0 || max_payload < 1024 {
            let what = format!("messages of {max_payload} bytes cannot hold a vector of {dimensions} numbers");
            return Err(ServeError::internal("queue_payload", what + "; raise the limit of the queue's servers"));
        }
        let inputs = inputs.min(answers);
        Ok(Split { most: max_payload, inputs, payloads: vec![], sizes: vec![], open: String::new(), count: 0 })
    }

    /// Adds an input; gives back a picture that has to be kept elsewhere.
    fn push(&mut self, input: PartInput) -> Result<Option<Stored>, ServeError> {
        let room = self.most - BEGIN.len() - END.len();
        // Four characters of base64 hold three bytes.
        let large = |file: &Bytes| file.len().div_ceil(3) * 4 + 32 > room;
        let (input, stored) = match input {
            PartInput::Image(file) if large(&file) => (PartInput::StoredImage(file.len()), Some(file)),
            other => (other, None),
        };
        let text = serde_json::to_string(&input).map_err(|e| ServeError::internal("malformed_part", e.to_string()))?;
        if text.len() > room {
            let what =
                format!("a text of {} bytes does not fit a message of the queue, which holds {room}", text.len());
            return Err(ServeError::new(Reason::TooLarge, "text_too_long", what + "; send it to /v1/embeddings"));
        }
        if self.count as usize == self.inputs || self.open.len() + 1 + text.len() + END.len() > self.most {
            self.close();
        }
        self.open += if self.count == 0 { BEGIN } else { "," };
        self.open += &text;
        self.count += 1;
        let (part, place) = (self.sizes.len() as u32, self.count as usize - 1);
        Ok(stored.map(|file| Stored { part, place, file }))
    }

    fn close(&mut self) {
        if self.count > 0 {
            let payload = std::mem::take(&mut self.open) + END;
            self.payloads.push(payload.into());
            self.sizes.push(std::mem::take(&mut self.count));
        }
    }

    fn finish(mut self) -> (Vec<Bytes>, Vec<u32>) {
        self.close();
        (self.payloads, self.sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Part;
    use super::*;

    fn read(payload: &[u8]) -> Part {
        Part::read(payload, usize::MAX).unwrap()
    }

    fn text(text: impl Into<String>) -> PartInput {
        PartInput::Text(text.into())
    }

    #[test]
    fn parts_hold_all_inputs_in_order_within_bounds() {
        let mut split = Split::new(2048, 5, 4).unwrap();
        // Quotes and line breaks take two bytes each as JSON.
        let inputs: Vec<PartInput> = (0..40).map(|n| text("\"\n".repeat(n * 7) + &n.to_string())).collect();
        for input in &inputs {
            assert!(split.push(input.clone()).unwrap().is_none());
        }
        let (payloads, sizes) = split.finish();
        assert!(payloads.iter().all(|payload| payload.len() <= 2048));
        assert!(sizes.contains(&5) && sizes.iter().any(|&size| size < 5), "{sizes:?}");
        let parts: Vec<Part> = payloads.iter().map(|payload| read(payload)).collect();
        assert_eq!(parts.iter().map(|part| part.inputs.len() as u32).collect::<Vec<_>>(), sizes);
        assert_eq!(parts.into_iter().flat_map(|part| part.inputs).collect::<Vec<_>>(), inputs);
    }

    #[test]
    fn large_pictures_are_kept_elsewhere_and_large_texts_refused() {
        let mut split = Split::new(2048, 5, 4).unwrap();
        split.push(text("a")).unwrap();
        let kept = split.push(PartInput::Image(vec![7; 1400].into())).unwrap();
        assert!(kept.is_none(), "1400 bytes fit");
        let stored = split.push(PartInput::Image(vec![7; 1600].into())).unwrap().unwrap();
        assert_eq!((stored.part, stored.place, stored.file.len()), (0, 2, 1600));
        let refused = split.push(text("x".repeat(2040))).err().unwrap();
        assert_eq!((refused.reason, &*refused.code), (Reason::TooLarge, "text_too_long"));
        let (payloads, _) = split.finish();
        assert_eq!(read(&payloads[0]).inputs[2], PartInput::StoredImage(1600));
    }

    #[test]
    fn parts_are_small_where_vectors_are_long() {
        assert_eq!(Split::new(1 << 20, 500, 1024).unwrap().inputs, 168);
        assert_eq!(Split::new(1000, 5, 1024).err().unwrap().code, "queue_payload");
    }
}
