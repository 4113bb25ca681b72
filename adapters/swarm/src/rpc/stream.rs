//! A streaming call under way.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::{FaultKind, PortError};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use libp2p::{PeerId, Stream};
use tokio::time::timeout;

use super::limits::{RpcLimits, broken, hung_up, nonsense, remote, too_slow};
use crate::wire::{
    WireError,
    frame::{END_OF_INPUT, StreamDecoder, StreamFrame, stream_header},
};

/// How much is read at once.
const READ_CHUNK: usize = 64 * 1024;

/// Parts of records that dropped `send`s may leave behind.
const MAX_UNSENT: usize = 64;

/// Messages in both directions. Dropping it resets the stream at once, which cancels the call at the peer.
#[derive(Debug)]
pub struct RpcStream {
    /// Gone after the end or a failure.
    stream: Option<Stream>,
    decoder: StreamDecoder,
    chunk: Vec<u8>,
    /// Bytes of records that are not yet with the stream, if a `send` was dropped or timed out.
    unsent: VecDeque<Bytes>,
    /// Whether an answer may come before its question.
    early: bool,
    peer: PeerId,
    method: String,
    limits: Arc<RpcLimits>,
}

impl RpcStream {
    pub(super) fn new(stream: Stream, peer: PeerId, method: String, limits: Arc<RpcLimits>) -> Self {
        Self {
            stream: Some(stream),
            decoder: StreamDecoder::new(limits.record),
            chunk: vec![0; READ_CHUNK],
            unsent: VecDeque::new(),
            early: false,
            peer,
            method,
            limits,
        }
    }

    /// Who is called.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Sends one message. When the future is dropped half way, the next `send` carries on with the rest first.
    ///
    /// # Errors
    /// `Unavailable` when the peer no longer listens (`next` may still tell why), `TimedOut` when it does not take the
    /// message in time; the stream is lost then.
    pub async fn send(&mut self, message: Bytes) -> Result<(), PortError> {
        let header = Bytes::copy_from_slice(&stream_header(message.len()));
        self.write([header, message]).await
    }

    /// Tells the peer that no message follows; its own still come.
    ///
    /// # Errors
    /// As `send`.
    pub async fn finish(&mut self) -> Result<(), PortError> {
        self.write([Bytes::from_static(&END_OF_INPUT), Bytes::new()]).await
    }

    /// The peer's next message; `None` after its last. May be dropped at any time without loss.
    ///
    /// # Errors
    /// `TimedOut` when no whole message came within `limit` (one may ask again), `Unavailable` when the peer reports a
    /// failure (the source is a `RemoteFault`) or the stream broke, `InvalidInput` when it sends nonsense. After all but
    /// `TimedOut` the stream is lost.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<Bytes>, PortError> {
        self.decoder.set_cap(self.limits.record);
        let outcome = timeout(limit, self.read()).await;
        match outcome {
            Ok(Ok(Some(message))) => Ok(Some(message)),
            Ok(end_or_failure) => {
                self.stream = None;
                end_or_failure
            }
            Err(_) => Err(too_slow(self.peer, &self.method, limit)),
        }
    }

    /// Lets answers come before their questions, as they do where servers hand outputs to each other (§6.7).
    #[must_use]
    pub fn answered_early(self) -> Self {
        Self { early: true, ..self }
    }

    /// One message there and the peer's next one back, of at most `most` bytes, all within `limit`; `None` where it has
    /// said its last. The peer speaks only when it is asked: what it said before is nonsense, unless answers may come
    /// [early](Self::answered_early). When the future is dropped half way, the stream is of no use for further questions.
    ///
    /// # Errors
    /// As `send` and `next`; the stream is lost after `TimedOut` too.
    pub async fn ask(&mut self, message: Bytes, most: usize, limit: Duration) -> Result<Option<Bytes>, PortError> {
        self.decoder.set_cap(most.min(self.limits.record));
        let exchange = async {
            if !self.early {
                match self.read().now_or_never() {
                    Some(Ok(Some(_))) => return Err(self.unasked()),
                    Some(end_or_failure) => return end_or_failure,
                    None if self.decoder.pending() > 0 => return Err(self.unasked()),
                    None => {}
                }
            }
            self.send(message).await?;
            self.read().await
        };
        let outcome = timeout(limit, exchange).await;
        let outcome = outcome.unwrap_or_else(|_| Err(too_slow(self.peer, &self.method, limit)));
        if !matches!(outcome, Ok(Some(_))) {
            self.stream = None;
        }
        outcome
    }

    async fn read(&mut self) -> Result<Option<Bytes>, PortError> {
        if self.stream.is_none() {
            return Err(self.ended());
        }
        loop {
            match self.decoder.next() {
                Ok(Some(StreamFrame::Message(message))) => return Ok(Some(message)),
                Ok(Some(StreamFrame::Error(text))) => {
                    return Err(remote(self.peer, &self.method, text.unwrap_or_default()));
                }
                Ok(None) => {}
                Err(error) => return Err(nonsense(self.peer, &self.method, error)),
            }
            let Some(stream) = &mut self.stream else { return Err(self.ended()) };
            match stream.read(&mut self.chunk).await {
                Ok(0) if self.decoder.pending() == 0 => return Ok(None),
                Ok(0) => return Err(hung_up(self.peer, &self.method)),
                Ok(count) => self.decoder.push(&self.chunk[..count]),
                Err(error) => return Err(broken(self.peer, &self.method, error)),
            }
        }
    }

    async fn write(&mut self, parts: [Bytes; 2]) -> Result<(), PortError> {
        if self.unsent.len() > MAX_UNSENT {
            self.stream = None;
        }
        self.unsent.extend(parts.into_iter().filter(|part| !part.is_empty()));
        let Some(stream) = &mut self.stream else { return Err(self.ended()) };
        let unsent = &mut self.unsent;
        let writing = async {
            while let Some(part) = unsent.front_mut() {
                let count = stream.write(part).await?;
                if count == 0 {
                    return Err(std::io::ErrorKind::WriteZero.into());
                }
                bytes::Buf::advance(part, count);
                if part.is_empty() {
                    unsent.pop_front();
                }
            }
            stream.flush().await
        };
        let limit = self.limits.write_timeout;
        match timeout(limit, writing).await {
            Ok(Ok(())) => Ok(()),
            // What the peer said before it closed its side can still be read.
            Ok(Err(error)) => Err(broken(self.peer, &self.method, error)),
            Err(_) => {
                self.stream = None;
                Err(too_slow(self.peer, &self.method, limit))
            }
        }
    }

    fn unasked(&self) -> PortError {
        nonsense(self.peer, &self.method, WireError::malformed("stream", "a message that nobody asked for"))
    }

    fn ended(&self) -> PortError {
        PortError::new(FaultKind::Unavailable, format!("{} at {} has ended", self.method, self.peer))
    }
}
