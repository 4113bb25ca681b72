//! Unary calls, and the opening of streaming ones.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use corolla_domain::ports::PortError;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{PeerId, Stream};
use tokio::time::timeout;

use super::{
    limits::{RpcLimits, broken, hung_up, nonsense, remote, too_slow},
    stream::RpcStream,
};
use crate::{
    transport::Host,
    wire::{
        WireError,
        frame::{CallId, UnaryDecoder, UnaryFrame, encode_unary_request},
    },
};

/// How much is read at once.
const READ_CHUNK: usize = 32 * 1024;

/// Calls methods of other peers. Clones share the host.
#[derive(Debug, Clone)]
pub struct Rpc {
    host: Host,
    limits: Arc<RpcLimits>,
}

impl Rpc {
    /// A caller on `host`.
    #[must_use]
    pub fn new(host: Host, limits: RpcLimits) -> Self {
        Self { host, limits: Arc::new(limits) }
    }

    /// The host that carries the calls.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// One request and its reply, the connection included within `limit`. May be dropped at any time, which cancels
    /// the call at the peer too.
    ///
    /// # Errors
    /// Those of `Host::open_stream`; `Unavailable` when the peer hangs up or reports a failure (the source is a
    /// `RemoteFault` then), `TimedOut` after `limit`, `InvalidInput` when the reply is nonsense or the request too long.
    pub async fn unary(&self, peer: PeerId, method: &str, request: Bytes, limit: Duration) -> Result<Bytes, PortError> {
        let frame = encode_unary_request(call_id(), &peer.to_bytes(), method, request)?;
        let call = async {
            let stream = self.host.open_stream(peer, method).await?;
            self.exchange(stream, peer, method, &frame).await
        };
        timeout(limit, call).await.unwrap_or_else(|_| Err(too_slow(peer, method, limit)))
    }

    /// Opens a streaming call.
    ///
    /// # Errors
    /// Those of `Host::open_stream`.
    pub async fn stream(&self, peer: PeerId, method: &str) -> Result<RpcStream, PortError> {
        let stream = self.host.open_stream(peer, method).await?;
        Ok(RpcStream::new(stream, peer, method.to_owned(), self.limits.clone()))
    }

    /// Writes the frame, and keeps the writing side open until the reply is there: the callee takes its end for a
    /// cancellation.
    async fn exchange(&self, mut stream: Stream, peer: PeerId, method: &str, frame: &[u8]) -> Result<Bytes, PortError> {
        stream.write_all(frame).await.map_err(|e| broken(peer, method, e))?;
        stream.flush().await.map_err(|e| broken(peer, method, e))?;
        let mut decoder = UnaryDecoder::new(self.limits.unary);
        let mut chunk = vec![0; READ_CHUNK];
        loop {
            let count = stream.read(&mut chunk).await.map_err(|e| broken(peer, method, e))?;
            if count == 0 {
                return Err(hung_up(peer, method));
            }
            decoder.push(&chunk[..count]);
            match decoder.next().map_err(|e| nonsense(peer, method, e))? {
                Some(UnaryFrame::Reply { outcome: Ok(response), .. }) => return Ok(response),
                Some(UnaryFrame::Reply { outcome: Err(text), .. }) => return Err(remote(peer, method, text)),
                Some(UnaryFrame::Request { .. }) => {
                    return Err(nonsense(peer, method, WireError::malformed("unary reply", "a request")));
                }
                None => {}
            }
        }
    }
}

/// A name for a call that nobody else uses: callees tell all callers' calls apart by it.
fn call_id() -> CallId {
    // 32 random bytes behind a header of two
    let random = PeerId::random().to_bytes();
    let mut id = CallId::default();
    id.copy_from_slice(&random[random.len() - size_of::<CallId>()..]);
    id
}
