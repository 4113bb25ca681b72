//! Framings of RPCs on a libp2p stream: one length-prefixed frame each way for a unary call (§2.2), marked records for
//! a streaming one (§2.3).

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};

use super::{
    WireError,
    proto::{self, CallUnaryRequest, CallUnaryResponse, PersistentConnectionRequest, call::Call, outcome::Outcome},
    remote_text,
};

/// Most bytes of a unary frame's body: Go daemons enforce it in both directions.
pub const MAX_UNARY: usize = 4 << 20;
/// Most bytes of a record's body we suggest: a prefill of 2048 tokens of the widest model takes 56 MiB (§5.4).
pub const MAX_RECORD: usize = 64 << 20;
/// Most bytes of an error record's body: it holds one sentence.
pub const MAX_ERROR_RECORD: usize = 64 << 10;
/// What a caller writes after its last message.
pub const END_OF_INPUT: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 0];

/// Names a call; random, unique over all callers.
pub type CallId = [u8; 16];

/// A unary frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnaryFrame {
    /// Caller to callee.
    Request {
        /// The name of the call, to be echoed.
        call_id: CallId,
        /// The caller's idea of the callee's peer id; may be empty.
        peer: Bytes,
        /// Must be the protocol of the stream.
        protocol: String,
        /// The request message.
        data: Bytes,
    },
    /// Callee to caller.
    Reply {
        /// The name of the call; nobody checks it.
        call_id: Bytes,
        /// The response message, or the text of the callee's exception.
        outcome: Result<Bytes, String>,
    },
}

/// A record of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamFrame {
    /// One message.
    Message(Bytes),
    /// From a caller: the end of its input. From a callee: failure, with the text of its exception (often empty).
    Error(Option<String>),
}

/// The frame of a unary request.
///
/// # Errors
/// `TooLarge` beyond [`MAX_UNARY`]: the callee would hang up without a word.
pub fn encode_unary_request(call_id: CallId, peer: &[u8], protocol: &str, data: Bytes) -> Result<Vec<u8>, WireError> {
    unary(
        Bytes::copy_from_slice(&call_id),
        Call::Request(CallUnaryRequest { peer: Bytes::copy_from_slice(peer), proto: protocol.to_owned(), data }),
    )
}

/// The frame of a unary reply: the response message, or a text that names the failure.
///
/// # Errors
/// `TooLarge` beyond [`MAX_UNARY`].
pub fn encode_unary_reply(call_id: Bytes, outcome: Result<Bytes, &str>) -> Result<Vec<u8>, WireError> {
    let outcome = match outcome {
        Ok(response) => Outcome::Response(response),
        Err(text) => Outcome::Error(Bytes::copy_from_slice(text.as_bytes())),
    };
    unary(call_id, Call::Response(CallUnaryResponse { outcome: Some(outcome) }))
}

fn unary(call_id: Bytes, call: Call) -> Result<Vec<u8>, WireError> {
    let frame = PersistentConnectionRequest { call_id, call: Some(call) };
    WireError::cap("unary frame", prost::Message::encoded_len(&frame), MAX_UNARY)?;
    Ok(prost::Message::encode_length_delimited_to_vec(&frame))
}

/// The record of one message.
#[must_use]
pub fn encode_stream_message(message: &[u8]) -> Vec<u8> {
    record(0, message)
}

/// The record of a failure.
#[must_use]
pub fn encode_stream_error(text: &str) -> Vec<u8> {
    record(1, &proto::encode(&proto::RpcError { message: Some(Bytes::copy_from_slice(text.as_bytes())) }))
}

/// Marker and length of a message record, for writers that send the body without copying it.
#[must_use]
pub fn stream_header(length: usize) -> [u8; 9] {
    header(0, length)
}

fn record(marker: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + body.len());
    bytes.extend_from_slice(&header(marker, body.len()));
    bytes.extend_from_slice(body);
    bytes
}

fn header(marker: u8, length: usize) -> [u8; 9] {
    let mut bytes = [marker, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[1..].copy_from_slice(&(length as u64).to_be_bytes());
    bytes
}

/// Frames as they stand one after the other on a stream.
pub trait Framing: Sized {
    /// Bytes before the body of the first frame in `bytes`, and bytes of the body; `None` while that cannot be told.
    ///
    /// # Errors
    /// Where no frame begins like this, or its body would be longer than `cap`.
    fn measure(bytes: &[u8], cap: usize) -> Result<Option<(usize, usize)>, WireError>;

    /// The frame that begins with `head` and has this body.
    ///
    /// # Errors
    /// Where the body is not one of such a frame.
    fn read(head: &[u8], body: Bytes) -> Result<Self, WireError>;
}

/// Reads frames from bytes as they arrive. Holds no more than was pushed, and nothing of what it gave away.
#[derive(Debug)]
pub struct Decoder<F> {
    buffer: BytesMut,
    cap: usize,
    frames: PhantomData<fn() -> F>,
}

/// Reads unary frames.
pub type UnaryDecoder = Decoder<UnaryFrame>;
/// Reads records of a stream. Error records may have up to [`MAX_ERROR_RECORD`] bytes in any case.
pub type StreamDecoder = Decoder<StreamFrame>;

impl<F: Framing> Decoder<F> {
    /// Takes bodies of up to `cap` bytes.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { buffer: BytesMut::new(), cap, frames: PhantomData }
    }

    /// Takes bodies of up to `cap` bytes from now on.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes pushed and not yet part of a frame: at the end of a stream anything but 0 means it was cut.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame; `None` until all its bytes are there.
    ///
    /// # Errors
    /// Where the bytes are no such frame. The stream is lost then.
    #[expect(clippy::should_implement_trait, reason = "an iterator's None would mean the end")]
    pub fn next(&mut self) -> Result<Option<F>, WireError> {
        let Some((head, body)) = F::measure(&self.buffer, self.cap)? else { return Ok(None) };
        if self.buffer.len() - head < body {
            return Ok(None);
        }
        let head = self.buffer.split_to(head);
        let rest = self.buffer.len() - body;
        let whole = self.buffer.split_to(body);
        if rest <= body {
            // What little is left must not keep the memory of a long frame.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        F::read(&head, whole.freeze()).map(Some)
    }
}

impl Framing for UnaryFrame {
    fn measure(bytes: &[u8], cap: usize) -> Result<Option<(usize, usize)>, WireError> {
        let Some((head, length)) = uvarint(bytes)? else { return Ok(None) };
        Ok(Some((head, cap_u64("unary frame", length, cap)?)))
    }

    fn read(_: &[u8], body: Bytes) -> Result<Self, WireError> {
        unary_frame(body)
    }
}

impl Framing for StreamFrame {
    fn measure(bytes: &[u8], cap: usize) -> Result<Option<(usize, usize)>, WireError> {
        let cap = match bytes.first() {
            None => return Ok(None),
            Some(0) => cap,
            Some(1) => MAX_ERROR_RECORD,
            Some(marker) => return Err(WireError::malformed("stream record", format!("marker {marker:#04x}"))),
        };
        let Some(([_, length @ ..], _)) = bytes.split_first_chunk::<9>() else { return Ok(None) };
        Ok(Some((9, cap_u64("stream record", u64::from_be_bytes(*length), cap)?)))
    }

    fn read(head: &[u8], body: Bytes) -> Result<Self, WireError> {
        if head.first() == Some(&0) {
            return Ok(Self::Message(body));
        }
        let error: proto::RpcError = proto::decode(body)?;
        Ok(Self::Error(error.message.map(|text| remote_text(&text))))
    }
}

/// Reads the body of a unary frame.
fn unary_frame(body: Bytes) -> Result<UnaryFrame, WireError> {
    let frame: PersistentConnectionRequest = proto::decode(body)?;
    match frame.call {
        Some(Call::Request(request)) => {
            let call_id = CallId::try_from(frame.call_id.as_ref())
                .map_err(|_| WireError::malformed("unary frame", "call id of other than 16 bytes"))?;
            Ok(UnaryFrame::Request { call_id, peer: request.peer, protocol: request.proto, data: request.data })
        }
        Some(Call::Response(CallUnaryResponse { outcome: Some(outcome) })) => Ok(UnaryFrame::Reply {
            call_id: frame.call_id,
            outcome: match outcome {
                Outcome::Response(response) => Ok(response),
                Outcome::Error(text) => Err(remote_text(&text)),
            },
        }),
        Some(Call::Response(_)) | None => Err(WireError::malformed("unary frame", "neither request nor reply")),
    }
}

/// A LEB128 number at the front of `bytes` and its length; `None` while it is incomplete.
fn uvarint(bytes: &[u8]) -> Result<Option<(usize, u64)>, WireError> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return Ok(Some((i + 1, value)));
        }
    }
    if bytes.len() < 9 { Ok(None) } else { Err(WireError::malformed("unary frame", "length without an end")) }
}

/// `length` if the cap allows it.
fn cap_u64(what: &'static str, length: u64, cap: usize) -> Result<usize, WireError> {
    match usize::try_from(length) {
        Ok(length) if length <= cap => Ok(length),
        _ => Err(WireError::TooLarge { what, claimed: length, limit: cap as u64 }),
    }
}
