//! The callee's end of a streaming call.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::wire::frame::{Framing, StreamDecoder, StreamFrame, encode_stream_error, stream_header};

/// How much is read at once.
const READ_CHUNK: usize = 64 * 1024;
/// Records up to this long are taken in any case; longer ones need room in the budget that all streams share.
const SMALL: usize = 64 * 1024;

/// Room for records that are being received, in all streams together.
#[derive(Debug, Clone)]
pub(crate) struct Inbox(Arc<Semaphore>);

impl Inbox {
    /// Room for `bytes`, which the longest record must fit into.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(SMALL))))
    }

    async fn room(&self, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(SMALL)).unwrap_or(u32::MAX);
        self.0.clone().acquire_many_owned(units).await.map_err(io::Error::other)
    }
}

/// Who called, and the stream it talks on. Dropping it without [`close`](Self::close) resets the stream.
pub(crate) struct Caller {
    peer: PeerId,
    stream: Stream,
    decoder: StreamDecoder,
    chunk: Box<[u8]>,
    room: Option<OwnedSemaphorePermit>,
    inbox: Inbox,
    most: usize,
    write: Duration,
}

impl Caller {
    /// A caller that may send messages of up to `most` bytes and must read each answer within `write`.
    pub(crate) fn new(peer: PeerId, stream: Stream, most: usize, write: Duration, inbox: Inbox) -> Self {
        let chunk = vec![0; READ_CHUNK].into_boxed_slice();
        let decoder = StreamDecoder::new(most);
        Self { peer, stream, decoder, chunk, room: None, inbox, most, write }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// The next message, `None` after the caller's last. May be dropped at any time without loss.
    ///
    /// # Errors
    /// The caller has gone, or sends nonsense.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.decoder.next().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Some(frame) => {
                    self.room = None;
                    match frame {
                        StreamFrame::Message(message) => return Ok(Some(message)),
                        StreamFrame::Error(_) => return Ok(None), // that is how the end is written
                    }
                }
                None => self.make_room().await?,
            }
            match self.stream.read(&mut self.chunk).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.decoder.push(&self.chunk[..count]),
            }
        }
    }

    /// Waits until a long record that has begun may come in whole.
    async fn make_room(&mut self) -> io::Result<()> {
        if self.room.is_some() {
            return Ok(());
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let begun = StreamFrame::measure(self.decoder.begun(), self.most).map_err(invalid)?;
        if let Some((_, body)) = begun.filter(|(_, body)| *body > SMALL) {
            self.room = Some(self.inbox.room(body).await?);
        }
        Ok(())
    }

    /// Waits until the caller goes or says something.
    pub(crate) async fn stirs(&mut self) {
        let mut byte = [0];
        let _ = self.stream.read(&mut byte).await;
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The caller has gone, or does not read.
    pub(crate) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let header = stream_header(message.len());
        let writing = async {
            self.stream.write_all(&header).await?;
            self.stream.write_all(message).await?;
            self.stream.flush().await
        };
        timeout(self.write, writing).await?
    }

    /// Ends the call with a failure.
    pub(crate) async fn fail(mut self, text: &str) {
        let writing = async {
            self.stream.write_all(&encode_stream_error(text)).await?;
            self.stream.flush().await?;
            self.stream.close().await
        };
        // A caller that has gone does not care.
        let _ = timeout(self.write, writing).await;
    }

    /// Ends the call: nothing more is said.
    pub(crate) async fn close(mut self) {
        let _ = timeout(self.write, self.stream.close()).await;
    }
}
