//! The callee's end of a streaming call.

use std::{io, time::Duration};

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use tokio::time::timeout;

use super::room::{Message, NoRoom, Share};
use crate::{
    transport::Worth,
    wire::frame::{StreamDecoder, StreamFrame, encode_stream_error, stream_header},
};

/// How much is read at once.
const READ_CHUNK: usize = 64 * 1024;

/// Why no message comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallerFault {
    /// The caller has gone, or sends nonsense.
    #[error(transparent)]
    Gone(#[from] io::Error),
    /// There is no room for what it sends.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// Who called, and the stream it talks on. Dropping it without [`close`](Self::close) resets the stream.
pub(crate) struct Caller<S = Stream> {
    peer: PeerId,
    stream: S,
    decoder: StreamDecoder,
    chunk: Box<[u8]>,
    /// Of the message that is arriving: as much as has arrived, whatever its length is said to be.
    taken: Share,
    /// Whether there was no room for a message, which may still be arriving.
    cut: bool,
    /// Whether anything was sent.
    answered: bool,
    write: Duration,
}

impl<S> Caller<S> {
    /// A caller that may send messages of up to `most` bytes, which take room of `taken`, and must read each answer within
    /// `write`.
    pub(crate) fn new(peer: PeerId, stream: S, most: usize, write: Duration, taken: Share) -> Self {
        let chunk = vec![0; READ_CHUNK].into_boxed_slice();
        Self { peer, stream, decoder: StreamDecoder::new(most), chunk, taken, cut: false, answered: false, write }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// What the call was good for, so far.
    pub(crate) fn worth(&self) -> Worth {
        if self.answered { Worth::Served } else { Worth::Vain }
    }
}

impl<S: AsyncRead + Unpin> Caller<S> {
    /// The next message, `None` after the caller's last. May be dropped at any time without loss.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, CallerFault> {
        loop {
            match self.decoder.next().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Some(StreamFrame::Message(bytes)) => {
                    let next = self.taken.fresh();
                    let room = std::mem::replace(&mut self.taken, next);
                    return Ok(Some(Message { bytes, room }));
                }
                Some(StreamFrame::Error(_)) => return Ok(None), // that is how the end is written
                None => {}
            }
            let count = self.stream.read(&mut self.chunk).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.taken.grow(self.decoder.pending() + count).inspect_err(|_| self.cut = true)?;
            self.decoder.push(&self.chunk[..count]);
        }
    }

    /// Waits until the caller goes or says something.
    pub(crate) async fn stirs(&mut self) {
        let mut byte = [0];
        let _ = self.stream.read(&mut byte).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
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
        timeout(self.write, writing).await??;
        self.answered = true;
        Ok(())
    }

    /// Ends the call with a failure.
    pub(crate) async fn fail(mut self, text: &str) {
        drop((self.decoder, self.taken)); // what has come is of no use any more
        let writing = async {
            self.stream.write_all(&encode_stream_error(text)).await?;
            self.stream.flush().await?;
            self.stream.close().await?;
            // Who is still sending hears it afterwards.
            while self.cut && self.stream.read(&mut self.chunk).await? > 0 {}
            io::Result::Ok(())
        };
        // A caller that has gone does not care.
        let _ = timeout(self.write, writing).await;
    }

    /// Ends the call: nothing more is said.
    pub(crate) async fn close(mut self) {
        let _ = timeout(self.write, self.stream.close()).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

    use super::*;
    use crate::{rpc::Room, wire::frame::encode_stream_message};

    const MIB: usize = 1 << 20;

    /// A caller who says this, and then nothing more.
    fn caller(room: &Room, says: Vec<u8>) -> Caller<impl AsyncRead + Unpin> {
        let stream = stream::iter([Ok::<_, io::Error>(says)]).chain(stream::pending()).into_async_read();
        let peer = PeerId::random();
        Caller::new(peer, stream, 64 * MIB, Duration::from_secs(1), room.share(peer))
    }

    fn message(caller: &mut Caller<impl AsyncRead + Unpin>) -> Option<Result<Message, CallerFault>> {
        caller.next().now_or_never().map(|outcome| outcome.map(|message| message.unwrap()))
    }

    #[test]
    fn who_only_says_how_long_a_message_will_be_takes_no_room_from_others() {
        let room = Room::new(5 * MIB);
        let claim = || stream_header(64 * MIB).to_vec();
        let mut silent: Vec<_> = (0..100).map(|_| caller(&room, claim())).collect();
        for caller in &mut silent {
            assert!(message(caller).is_none());
        }
        let prompt = vec![7; 2 * MIB];
        let mut honest = caller(&room, encode_stream_message(&prompt));
        assert_eq!(message(&mut honest).unwrap().unwrap().bytes, prompt);
    }

    #[test]
    fn a_message_takes_room_until_it_is_done_with() {
        let room = Room::new(5 * MIB);
        let long = encode_stream_message(&vec![7; 2 * MIB]);
        let first = message(&mut caller(&room, long.clone())).unwrap().unwrap();
        let refused = message(&mut caller(&room, long.clone())).unwrap().unwrap_err();
        assert!(matches!(refused, CallerFault::NoRoom(_)), "{refused}");
        message(&mut caller(&room, encode_stream_message(&[7; 1000]))).unwrap().unwrap();
        drop(first);
        message(&mut caller(&room, long)).unwrap().unwrap();
    }

    #[test]
    fn who_goes_in_the_midst_of_a_message_gives_its_room_back() {
        let room = Room::new(5 * MIB);
        let long = encode_stream_message(&vec![7; 2 * MIB]);
        let mut half = caller(&room, long[..2 * MIB].to_vec());
        assert!(message(&mut half).is_none());
        assert!(message(&mut caller(&room, long.clone())).unwrap().is_err());
        drop(half);
        message(&mut caller(&room, long)).unwrap().unwrap();
    }
}
