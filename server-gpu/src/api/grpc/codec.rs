//! Messages on their way in and out.
//!
//! A Protocol Buffers message may take many times its bytes once it is read: two bytes are an empty tensor of some hundred, one byte an
//! element of eight. What it will take is found by walking over it first, and taken from the memory for bodies.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use super::proto::{
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest, ServerMetadataRequest,
    ServerReadyRequest,
};
use super::status;
use crate::app::{App, Share};
use crate::error::ServeError;

tokio::task_local! {
    static HELD: Held;
}

/// The memory that a call holds.
#[derive(Clone)]
pub(super) struct Held {
    app: Arc<App>,
    share: Arc<Mutex<Share>>,
}

impl Held {
    pub(super) fn new(app: Arc<App>, share: Share) -> Held {
        Held { app, share: Arc::new(Mutex::new(share)) }
    }

    /// Runs a future whose messages take their memory from this.
    pub(super) fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        HELD.scope(self, future)
    }

    /// Takes so much for the call that this task serves.
    fn take(bytes: u64) -> Result<(), ServeError> {
        let take = |held: &Held| {
            let mut share = held.share.lock().unwrap_or_else(PoisonError::into_inner);
            held.app.bodies.take(&mut share, bytes)
        };
        HELD.try_with(take).unwrap_or(Ok(()))
    }
}

/// A message that says how much memory it takes once it is read, besides its own bytes.
pub(crate) trait Measured: Message + Default + Send + 'static {
    /// From the message's bytes. An upper bound; `None` if they are no message.
    fn memory(bytes: &[u8]) -> Option<u64>;
}

/// Memory of a tensor, an output or a parameter, with what holds it.
const ENTRY: u64 = 512;

/// Memory of the reference to a string of bytes, likewise.
const REFERENCE: u64 = 64;

/// Memory of an element of up to eight bytes; a list that grows has room for as many more.
const ELEMENT: u64 = 16;

/// Walks over a message's fields: number, and the bytes of those that have their length in front.
fn walk(mut bytes: &[u8], mut each: impl FnMut(u32, Option<&[u8]>) -> Option<()>) -> Option<()> {
    while bytes.has_remaining() {
        let (number, kind) = decode_key(&mut bytes).ok()?;
        if kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            let (own, rest) = bytes.split_at_checked(length)?;
            each(number, Some(own))?;
            bytes = rest;
        } else {
            skip_field(kind, number, &mut bytes, DecodeContext::default()).ok()?;
            each(number, None)?;
        }
    }
    Some(())
}

impl Measured for ModelInferRequest {
    fn memory(bytes: &[u8]) -> Option<u64> {
        let mut sum = 0;
        walk(bytes, |number, own| {
            sum += match (number, own) {
                // Tensors and outputs: their lists are few, but any of them may be long.
                (5 | 6, Some(own)) => ENTRY + of_tensor(own)?,
                (4, Some(_)) => ENTRY,
                (7, Some(_)) => REFERENCE,
                _ => 0,
            };
            Some(())
        })?;
        Some(sum)
    }
}

/// Of an input, or of an output, which has parameters under another number.
fn of_tensor(bytes: &[u8]) -> Option<u64> {
    let mut sum = 0;
    walk(bytes, |number, own| {
        sum += match (number, own) {
            // Sizes, one by one or in a row.
            (3, None) => ELEMENT,
            (3, Some(own)) => own.len() as u64 * ELEMENT,
            (2 | 4, Some(_)) => ENTRY,
            (5, Some(own)) => of_contents(own)?,
            _ => 0,
        };
        Some(())
    })?;
    Some(sum)
}

fn of_contents(bytes: &[u8]) -> Option<u64> {
    let mut sum = 0;
    walk(bytes, |number, own| {
        sum += match (number, own) {
            (8, Some(_)) => REFERENCE,
            // Floats and truth values are not longer than their bytes.
            (1 | 6 | 7, Some(own)) => own.len() as u64 * 2,
            (_, Some(own)) => own.len() as u64 * ELEMENT,
            (_, None) => ELEMENT,
        };
        Some(())
    })?;
    Some(sum)
}

macro_rules! small {
    ($($message:ty),*) => {
        $(impl Measured for $message {
            /// A name and a version are not more than their bytes.
            fn memory(_: &[u8]) -> Option<u64> {
                Some(0)
            }
        })*
    };
}

small!(ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest);

/// Protocol Buffers within bounds of memory.
pub(crate) struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Measured> Codec for BoundedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// See [`BoundedCodec`].
pub(crate) struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Measured> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The message's own memory goes on: nothing is copied.
        let bytes = source.copy_to_bytes(source.remaining());
        read(bytes).map(Some).map_err(|error| status::refusal(&error))
    }
}

fn read<U: Measured>(bytes: bytes::Bytes) -> Result<U, ServeError> {
    let wrong = |what: &dyn std::fmt::Display| {
        ServeError::bad_request("invalid_message", format!("this is no message of the call: {what}"))
    };
    let memory = U::memory(&bytes).ok_or_else(|| wrong(&"its fields do not fit into it"))?;
    Held::take(memory)?;
    U::decode(bytes).map_err(|e| wrong(&e))
}

#[cfg(test)]
mod tests {
    use super::super::proto::model_infer_request::InferInputTensor;
    use super::super::proto::{InferParameter, InferTensorContents};
    use super::*;

    fn request(inputs: Vec<InferInputTensor>) -> ModelInferRequest {
        ModelInferRequest { inputs, ..ModelInferRequest::default() }
    }

    #[test]
    fn what_grows_when_read_is_foreseen() {
        let empty = request(vec![InferInputTensor::default(); 1000]);
        let tensor = size_of::<InferInputTensor>() as u64;
        assert_eq!(empty.encoded_len(), 2000);
        assert!(ModelInferRequest::memory(&empty.encode_to_vec()).unwrap() >= 1000 * tensor);

        let contents = InferTensorContents { int64_contents: vec![1; 1000], ..InferTensorContents::default() };
        let input = InferInputTensor {
            shape: vec![1; 1000],
            parameters: (0..100).map(|n| (n.to_string(), InferParameter::default())).collect(),
            contents: Some(contents),
            ..InferInputTensor::default()
        };
        let long = request(vec![input]);
        let memory = ModelInferRequest::memory(&long.encode_to_vec()).unwrap();
        let parameter = size_of::<(String, InferParameter)>() as u64;
        assert!(memory >= 2000 * 8 + 100 * parameter, "{memory}");

        // Tensors in their usual form cost little more than they are.
        let raw = ModelInferRequest { raw_input_contents: vec![vec![0; 1 << 20].into()], ..request(vec![]) };
        assert_eq!(ModelInferRequest::memory(&raw.encode_to_vec()), Some(REFERENCE));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = request(vec![InferInputTensor { name: "x".into(), ..InferInputTensor::default() }]).encode_to_vec();
        assert_eq!(read::<ModelInferRequest>(good.clone().into()).unwrap().inputs[0].name, "x");
        let short = good[..good.len() - 1].to_vec();
        for bytes in [short, vec![0xff; 20], vec![0x2a, 0x7f], vec![0x2a, 1, 0x0b], vec![0x08, 1]] {
            assert_eq!(
                read::<ModelInferRequest>(bytes.clone().into()).unwrap_err().code,
                "invalid_message",
                "{bytes:?}"
            );
        }
    }
}
