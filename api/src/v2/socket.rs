//! The socket around a talk: reading ahead, pings, and what ends it.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    Sink, SinkExt, Stream, StreamExt,
    future::{Either, join, select},
};
use poem::{
    http::StatusCode,
    web::websocket::{CloseCode, Message, WebSocketStream},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::timeout,
};

use super::{PING, frame, talk::Talk};
use crate::{error::Fault, hangup::Leaving};

/// Messages that may wait while a reply is written.
pub(super) const QUEUE: usize = 64;
/// Frames on their way out; a client that reads slowly holds its own reply up.
const OUTBOX: usize = 4;
/// Bytes that may wait to be written to the network.
pub(super) const WRITE_BUFFER: usize = 1 << 20;
/// A client that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// What the closing handshake may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Messages that have come and not been taken.
pub(super) struct Inbox {
    messages: Receiver<String>,
    /// Bytes of all of them.
    bytes: Arc<AtomicUsize>,
}

impl Inbox {
    /// The next message; `None` where no more can come.
    pub(super) async fn next(&mut self) -> Option<String> {
        let message = self.messages.recv().await?;
        self.bytes.fetch_sub(message.len(), Relaxed);
        Some(message)
    }
}

/// Runs `talk` over `socket` until one of the two ends. Dropping the talk stops its compute.
pub(super) async fn run(socket: WebSocketStream, talk: Talk, leaving: Leaving, longest: usize) {
    let (mut sink, mut stream) = socket.split();
    let (sender, messages) = channel(QUEUE);
    let bytes = Arc::<AtomicUsize>::default();
    let inbox = Inbox { messages, bytes: bytes.clone() };
    let (out, outbox) = channel(OUTBOX);
    let fault = {
        let work = pin!(join(talk.run(inbox, out), write(outbox, &mut sink)));
        let read = pin!(read(&mut stream, &sender, &bytes, longest));
        match select(work, read).await {
            Either::Left(_) => None,
            Either::Right((end, _)) => end.err(),
        }
    };
    let farewell = async {
        if let Some(fault) = fault {
            let _ = sink.send(Message::Text(frame::failure(&fault, None))).await;
        }
        let _ = sink.send(goodbye(&leaving)).await;
        while let Some(Ok(_)) = stream.next().await {}
    };
    let _ = timeout(GOODBYE, farewell).await;
}

/// The end of a connection.
fn goodbye(leaving: &Leaving) -> Message {
    let why = if leaving.is_heard() { (CloseCode::Away, "the server stops") } else { (CloseCode::Normal, "") };
    Message::Close(Some((why.0, why.1.to_owned())))
}

/// Reads ahead until the client is gone (`Ok`), or sends what cannot be taken.
async fn read(
    stream: &mut (impl Stream<Item = std::io::Result<Message>> + Unpin),
    messages: &Sender<String>,
    bytes: &AtomicUsize,
    longest: usize,
) -> Result<(), Fault> {
    loop {
        let text = match stream.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Binary(_))) => {
                return Err(Fault {
                    legacy: "TypeError",
                    ..Fault::invalid("frame", "frames must be text, not binary")
                });
            }
            // What the protocol forbids has no kind of its own; a connection that broke has.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::Other => {
                let message = format!("the frame cannot be read: {error}");
                return Err(Fault::invalid("frame", message));
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
        };
        let waiting = bytes.fetch_add(text.len(), Relaxed) + text.len();
        if waiting > longest || messages.try_send(text).is_err() {
            let message = format!(
                "too much was sent ahead: at most {QUEUE} frames and {longest} bytes may wait while a reply is written"
            );
            return Err(Fault::new(StatusCode::TOO_MANY_REQUESTS, "too_much_ahead", message));
        }
    }
}

/// Writes what comes until there is no more to come, or nobody takes it.
async fn write(mut outbox: Receiver<String>, sink: &mut (impl Sink<Message> + Unpin)) {
    loop {
        let message = match timeout(PING, outbox.recv()).await {
            Ok(Some(text)) => Message::Text(text),
            Ok(None) => return,
            Err(_) => Message::Ping(Vec::new()),
        };
        if !matches!(timeout(STALLED, sink.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_is_quiet_for_long_is_pinged() {
        let (out, outbox) = channel(OUTBOX);
        out.send("a".to_owned()).await.unwrap();
        let mut sent = Vec::new();
        let writes = timeout(PING * 2 + PING / 2, write(outbox, &mut sent)).await;
        assert!(writes.is_err(), "it waits for more");
        let ping = || Message::Ping(Vec::new());
        assert_eq!(sent, [Message::Text("a".to_owned()), ping(), ping()]);
        drop(out);
    }
}
