//! The callee's side: methods that other peers call. Everything a caller may hold is bounded: calls at a time, the size
//! of a request, and the time it takes to send one.
//!
//! A caller that hangs up, or says anything it was not asked for, has cancelled its call (wire protocol §2.2).

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::PortError;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, future::BoxFuture};
use libp2p::{PeerId, Stream};
use tokio::{task::JoinHandle, time::timeout};

use super::{
    caller::CallerFault,
    room::{Message, NoRoom, Room, Share},
};
use crate::{
    transport::{Host, Most, Worth, take},
    wire::frame::{CallId, UnaryDecoder, UnaryFrame, encode_unary_reply},
};

/// How much is read at once.
const READ_CHUNK: usize = 16 * 1024;

/// What callers of one method may cost.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Most bytes of one request.
    pub request: usize,
    /// Calls at a time; those beyond are reset.
    pub calls: usize,
    /// Calls at a time of one peer.
    pub calls_of_peer: usize,
    /// How long a caller may take to send its request once it has opened the stream.
    pub arrival: Duration,
    /// How long it may take to read the reply.
    pub write: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { request: 1 << 20, calls: 512, calls_of_peer: 64, arrival: s(10), write: s(30) }
    }
}

/// A method that is served. Dropping it refuses the method from then on and cancels the calls under way.
#[derive(Debug)]
pub struct Service(JoinHandle<()>);

impl Service {
    /// Ends it as dropping does, and waits until the method can be served anew.
    pub async fn end(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await; // aborted, or ended before
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The outcome of a call: the response message, or a text that names the failure.
pub type Outcome = Result<Bytes, String>;

/// Serves a unary method: `answer` is given the caller and its request. It is dropped where the caller hangs up.
///
/// # Errors
/// Those of [`Host::accept`].
pub async fn serve_unary(
    host: &Host,
    method: &'static str,
    limits: ServeLimits,
    answer: impl Fn(PeerId, Bytes) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
) -> Result<Service, PortError> {
    serve_messages(host, method, limits, Room::endless(), move |peer, message| {
        let answered = answer(peer, message.bytes);
        Box::pin(async move { (answered.await, ()) })
    })
    .await
}

/// As [`serve_unary`], for requests that take room: one for which there is none is refused. What comes with an outcome is
/// held until the reply is written.
///
/// # Errors
/// Those of [`Host::accept`].
pub(crate) async fn serve_messages<H: Send + 'static>(
    host: &Host,
    method: &'static str,
    limits: ServeLimits,
    room: Room,
    answer: impl Fn(PeerId, Message) -> BoxFuture<'static, (Outcome, H)> + Send + Sync + 'static,
) -> Result<Service, PortError> {
    let answer = Arc::new(answer);
    serve(host, method, limits, move |peer, stream| {
        let (answer, room) = (answer.clone(), room.clone());
        Box::pin(async move {
            let answer = |message| answer(peer, message);
            exchange(stream, method, limits, room.share(peer), answer).await.unwrap_or_else(|error| {
                tracing::debug!(%peer, method, %error, "a call ended early");
                Worth::Vain
            })
        })
    })
    .await
}

/// Serves a method by what is done with each of its streams.
///
/// # Errors
/// Those of [`Host::accept`].
pub(crate) async fn serve(
    host: &Host,
    method: &'static str,
    limits: ServeLimits,
    run: impl Fn(PeerId, Stream) -> BoxFuture<'static, Worth> + Send + Sync + 'static,
) -> Result<Service, PortError> {
    let incoming = host.accept(method).await?;
    let most = Most { all: limits.calls, of_peer: limits.calls_of_peer };
    Ok(Service(tokio::spawn(take(incoming, method, most, run))))
}

/// One unary call.
async fn exchange<H>(
    mut stream: Stream,
    method: &str,
    limits: ServeLimits,
    room: Share,
    answer: impl FnOnce(Message) -> BoxFuture<'static, (Outcome, H)>,
) -> io::Result<Worth> {
    let arriving = request(&mut stream, method, limits.request, room);
    let (call_id, message) = match timeout(limits.arrival, arriving).await? {
        Ok(request) => request,
        // Its name has not been read; nobody checks the one that comes back.
        Err(CallerFault::NoRoom(fault)) => {
            let refusal = Err(format!("{}('{fault}')", NoRoom::CLASS));
            write(&mut stream, limits, CallId::default(), refusal).await?;
            timeout(limits.arrival, let_by(&mut stream)).await??;
            return Ok(Worth::Vain);
        }
        Err(CallerFault::Gone(error)) => return Err(error),
    };
    let (outcome, _held) = {
        let mut gone = [0];
        tokio::select! {
            biased;
            answered = answer(message) => answered,
            _ = stream.read(&mut gone) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled")),
        }
    };
    let worth = if outcome.is_ok() { Worth::Served } else { Worth::Vain };
    write(&mut stream, limits, call_id, outcome).await?;
    Ok(worth)
}

/// Writes the reply.
async fn write(stream: &mut Stream, limits: ServeLimits, call_id: CallId, outcome: Outcome) -> io::Result<()> {
    let call_id = Bytes::copy_from_slice(&call_id);
    let reply = encode_unary_reply(call_id.clone(), outcome.as_ref().cloned().map_err(String::as_str))
        .or_else(|error| encode_unary_reply(call_id, Err(&format!("ValueError('{error}')"))))
        .map_err(io::Error::other)?;
    let writing = async {
        stream.write_all(&reply).await?;
        stream.flush().await?;
        // The end of the stream must come before the reset that dropping it may send.
        stream.close().await
    };
    timeout(limits.write, writing).await?
}

/// Reads on to where the caller ends: it may listen only then.
async fn let_by(stream: &mut Stream) -> io::Result<()> {
    let mut chunk = vec![0; READ_CHUNK];
    while stream.read(&mut chunk).await? > 0 {}
    Ok(())
}

async fn request(
    stream: &mut Stream,
    method: &str,
    most: usize,
    mut room: Share,
) -> Result<(CallId, Message), CallerFault> {
    let invalid = |what: String| CallerFault::Gone(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut decoder = UnaryDecoder::new(most);
    let mut chunk = vec![0; READ_CHUNK];
    loop {
        match decoder.next().map_err(|error| invalid(error.to_string()))? {
            Some(UnaryFrame::Request { call_id, protocol, data, .. }) if protocol == method => {
                return Ok((call_id, Message { bytes: data, room }));
            }
            Some(_) => return Err(invalid("not a request for this method".to_owned())),
            None => {}
        }
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        room.grow(decoder.pending() + count)?;
        decoder.push(&chunk[..count]);
    }
}
