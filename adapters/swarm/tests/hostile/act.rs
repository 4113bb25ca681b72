//! What a hostile peer does on a stream.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::FaultKind;
use corolla_swarm::wire::{
    frame::{encode_stream_message, encode_unary_reply, stream_header},
    proto::{self, ExpertResponse, Tensor},
};
use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// One way to misuse a stream.
#[derive(Clone)]
pub(crate) enum Act {
    /// Says this and waits until it is hung up on.
    Say(Bytes),
    /// Says this and ends its side in order.
    End(Bytes),
    /// Says this and breaks the stream.
    Break(Bytes),
    /// Says the first, and the second again and again.
    Endless(Bytes, Bytes),
    /// Says this a byte at a time, with this pause after each.
    Drip(Bytes, Duration),
}

/// What a peer does in place of an honest answer, which it is given.
pub(crate) type Script<T> = Arc<dyn Fn(T) -> Act + Send + Sync>;

/// An entry of a catalogue: what is done, and what the caller should hear.
pub(crate) struct Misdeed<T> {
    pub(crate) name: &'static str,
    pub(crate) script: Script<T>,
    pub(crate) kind: FaultKind,
    pub(crate) words: &'static str,
}

/// An entry for the peer's fault: `Unavailable`, with these words.
pub(crate) fn misdeed<T>(
    name: &'static str,
    words: &'static str,
    script: impl Fn(T) -> Act + Send + Sync + 'static,
) -> Misdeed<T> {
    Misdeed { name, script: Arc::new(script), kind: FaultKind::Unavailable, words }
}

/// An entry for a peer that takes too long.
pub(crate) fn delay<T>(name: &'static str, script: impl Fn(T) -> Act + Send + Sync + 'static) -> Misdeed<T> {
    Misdeed { kind: FaultKind::TimedOut, ..misdeed(name, "longer than", script) }
}

impl Act {
    /// Does it. The stream should be dropped afterwards.
    pub(crate) async fn perform(self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
        match self {
            Self::Say(bytes) => {
                say(stream, &bytes).await?;
                until_hung_up(stream).await
            }
            Self::End(bytes) => {
                say(stream, &bytes).await?;
                stream.close().await?;
                until_hung_up(stream).await
            }
            Self::Break(bytes) => say(stream, &bytes).await,
            Self::Endless(head, rest) => {
                say(stream, &head).await?;
                loop {
                    say(stream, &rest).await?;
                }
            }
            Self::Drip(bytes, pause) => {
                for byte in bytes {
                    say(stream, &[byte]).await?;
                    tokio::time::sleep(pause).await;
                }
                until_hung_up(stream).await
            }
        }
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn until_hung_up(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut chunk = [0; 1024];
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// A whole unary frame.
pub(crate) fn unary(message: impl Into<Bytes>) -> Bytes {
    encode_unary_reply(Bytes::from_static(&[0; 16]), Ok(message.into())).unwrap().into()
}

/// A whole record of a stream.
pub(crate) fn record(message: &[u8]) -> Bytes {
    encode_stream_message(message).into()
}

/// The head of a record that claims to be this long.
pub(crate) fn claim(length: u64) -> Bytes {
    [&[0][..], &length.to_be_bytes()].concat().into()
}

/// The head of a record and not all of its body.
pub(crate) fn cut_record(length: usize, there: usize) -> Bytes {
    [&stream_header(length)[..], &vec![0; there]].concat().into()
}

/// A reply to a step.
pub(crate) fn reply(tensors: Vec<Tensor>) -> Bytes {
    record(&proto::encode(&ExpertResponse { tensors, ..ExpertResponse::default() }))
}
