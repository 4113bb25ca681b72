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

use crate::{
    transport::{Host, Room, take},
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
    let answer = Arc::new(answer);
    serve(host, method, limits, move |peer, stream| {
        let answer = answer.clone();
        Box::pin(async move {
            if let Err(error) = exchange(stream, peer, method, limits, &*answer).await {
                tracing::debug!(%peer, method, %error, "a call ended early");
            }
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
    run: impl Fn(PeerId, Stream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> Result<Service, PortError> {
    let incoming = host.accept(method).await?;
    let room = Room { all: limits.calls, of_peer: limits.calls_of_peer };
    Ok(Service(tokio::spawn(take(incoming, method, room, run))))
}

/// One unary call.
async fn exchange(
    mut stream: Stream,
    peer: PeerId,
    method: &str,
    limits: ServeLimits,
    answer: &(dyn Fn(PeerId, Bytes) -> BoxFuture<'static, Outcome> + Send + Sync),
) -> io::Result<()> {
    let (call_id, request) = timeout(limits.arrival, request(&mut stream, method, limits.request)).await??;
    let outcome = {
        let mut gone = [0];
        tokio::select! {
            biased;
            outcome = answer(peer, request) => outcome,
            _ = stream.read(&mut gone) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled")),
        }
    };
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

async fn request(stream: &mut Stream, method: &str, most: usize) -> io::Result<(CallId, Bytes)> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut decoder = UnaryDecoder::new(most);
    let mut chunk = vec![0; READ_CHUNK];
    loop {
        match decoder.next().map_err(|error| invalid(error.to_string()))? {
            Some(UnaryFrame::Request { call_id, protocol, data, .. }) if protocol == method => {
                return Ok((call_id, data));
            }
            Some(_) => return Err(invalid("not a request for this method".to_owned())),
            None => {}
        }
        match stream.read(&mut chunk).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => decoder.push(&chunk[..count]),
        }
    }
}
