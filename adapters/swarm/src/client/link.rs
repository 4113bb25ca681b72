//! One `rpc_inference` stream: a KV cache at one server, as long as the stream lives (wire protocol §6.6).

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use corolla_domain::{
    model::Hidden,
    ports::{FaultKind, Inbox, PortError, Relay, SessionNeed},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{codec::Codec, terms::Terms};
use crate::{
    rpc::{RemoteFault, RpcStream},
    wire::{
        WireError,
        inference::{NextServer, Open, StepMetadata, most_reply, parse_hidden, step_request},
        proto::{self, ExpertResponse, Tensor},
    },
};

/// Rows times positions of one message: safe at every server.
const MOST_TOKENS: usize = 1024;
/// Bytes of one message, as a number of f32.
const MOST_NUMBERS: usize = 4 << 20;
/// A server closes a session that idles for 300 s or lives for 1800 s, without a word.
const MOST_IDLE: Duration = Duration::from_secs(270);
const MOST_AGE: Duration = Duration::from_secs(1740);
/// Longest message whose output is pushed: a push travels in a unary call, which carries no more than 4 MiB.
const MOST_PUSHED: usize = 2 << 20;

/// What a link is for.
#[derive(Debug, Clone)]
pub(super) struct Purpose {
    /// The blocks, as a request names them.
    pub(super) uids: String,
    pub(super) need: SessionNeed,
    pub(super) terms: Terms,
    /// How long the server may wait for room in its cache.
    pub(super) patience: Option<Duration>,
    /// How long it may take over one message.
    pub(super) timeout: Duration,
}

/// A session at a server. Dropping it resets the stream, upon which the server frees its cache.
pub(super) struct Link {
    stream: RpcStream,
    purpose: Purpose,
    session_id: String,
    /// Positions in the server's cache.
    position: usize,
    relayed: bool,
    begun: bool,
    opened: Instant,
    used: Instant,
}

impl Link {
    /// A link over a stream on which nothing has been said. The server sets its cache aside at the first message.
    pub(super) fn new(stream: RpcStream, purpose: Purpose, relayed: bool) -> Self {
        let (session_id, now) = (Uuid::new_v4().to_string(), Instant::now());
        let stream = if purpose.terms.pushes { stream.answered_early() } else { stream };
        Self { stream, purpose, session_id, position: 0, relayed, begun: false, opened: now, used: now }
    }

    /// With another limit on what the server may take over one message.
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.purpose.timeout = timeout;
        self
    }

    pub(super) fn codec(&self) -> Codec {
        self.purpose.terms.codec
    }

    /// Whether it leads through a relay.
    pub(super) fn relayed(&self) -> bool {
        self.relayed
    }

    /// Whether the server will have closed it by now.
    pub(super) fn expired(&self) -> bool {
        self.used.elapsed() > MOST_IDLE || self.opened.elapsed() > MOST_AGE
    }

    /// How long nothing was said.
    pub(super) fn idle(&self) -> Duration {
        self.used.elapsed()
    }

    /// The name by which other servers may push to it; `None` where this server does not, or does not know it yet.
    pub(super) fn inbox(&self) -> Option<&str> {
        (self.begun && self.purpose.terms.pushes && !self.expired()).then_some(self.session_id.as_str())
    }

    /// Lets the server set its cache aside before there is anything to compute.
    pub(super) async fn reserve(&mut self, width: usize) -> Result<(), PortError> {
        let side = |n: usize| u32::try_from(n).map_err(|_| PortError::invalid(format!("{n} is too large a side")));
        let nothing = self.codec().nothing(side(self.purpose.need.batch)?, side(width)?);
        let wanted = nothing.size.clone();
        let reply = self.exchange(nothing, &Uuid::new_v4().to_string(), None).await?;
        let response: ExpertResponse = proto::decode(reply).map_err(|error| self.nonsense(&error))?;
        match &response.tensors[..] {
            [tensor] if tensor.size == wanted => Ok(()),
            _ => Err(self.nonsense(&WireError::malformed("reply", "not the nothing that was asked"))),
        }
    }

    /// Runs positions through the blocks, in pieces that every server takes. The answer is in the server's type.
    ///
    /// All sessions of a relay cut a step alike, and call the pieces the same. Only the first is pushed: pushes may
    /// overtake each other.
    pub(super) async fn step(&mut self, hidden: &Hidden, relay: Option<&Relay>) -> Result<Hidden, PortError> {
        let mut outputs = Vec::new();
        let next: Vec<NextServer> = relay.map_or_else(Vec::new, next_servers);
        let piece = most_positions(hidden.batch(), hidden.width());
        for (nth, start) in (0..hidden.seq()).step_by(piece).enumerate() {
            let input = hidden.positions(start, hidden.seq().min(start + piece))?;
            let tensor = self.codec().encode(&input)?;
            let pushed = self.begun && nth == 0 && !next.is_empty() && tensor.buffer.len() <= MOST_PUSHED;
            let name = relay.map_or_else(Uuid::new_v4, |relay| Uuid::from_u64_pair(relay.step, nth as u64));
            let reply = self.exchange(tensor, &name.to_string(), pushed.then_some(&next[..])).await?;
            outputs.push(parse_hidden(reply, &input).map_err(|error| self.nonsense(&error))?);
            self.position += input.seq();
        }
        Hidden::concat(&outputs).map_err(|_| self.nonsense(&WireError::malformed("replies", "of different types")))
    }

    /// One message there, one back. A server answers once to a name, also where it got the same from somebody else.
    async fn exchange(
        &mut self,
        hidden: Tensor,
        step_id: &str,
        next_servers: Option<&[NextServer]>,
    ) -> Result<Bytes, PortError> {
        let open = Open {
            max_length: self.purpose.need.max_length,
            active_adapter: None,
            alloc_timeout: self.purpose.patience.map(|patience| patience.as_secs_f64()),
        };
        let most = most_reply(&hidden);
        let metadata = StepMetadata {
            session_id: &self.session_id,
            step_id,
            open: (!self.begun).then_some(open),
            start_from_position: Some(self.position),
            next_servers,
            ..StepMetadata::default()
        };
        let request = step_request(&self.purpose.uids, hidden, None, metadata.encode());
        self.begun = true;
        let reply = self.stream.ask(proto::encode(&request), most, self.purpose.timeout).await.map_err(of_peer)?;
        self.used = Instant::now();
        reply
            .ok_or_else(|| PortError::new(FaultKind::Unavailable, format!("{} closed the session", self.stream.peer())))
    }

    fn nonsense(&self, error: &WireError) -> PortError {
        let text = format!("{} answered a step with nonsense: {error}", self.stream.peer());
        PortError::new(FaultKind::Unavailable, text).with_source(error.clone())
    }
}

/// Where the output of a step is to go, as servers are told.
fn next_servers(relay: &Relay) -> Vec<NextServer> {
    let next = |inbox: &Inbox| NextServer {
        peer: inbox.peer.0.clone(),
        session_id: inbox.session.clone(),
        start: inbox.blocks.start(),
        end: inbox.blocks.end(),
    };
    relay.next.iter().map(next).collect()
}

/// Positions of one message.
fn most_positions(batch: usize, width: usize) -> usize {
    (MOST_TOKENS / batch).min(MOST_NUMBERS / batch.saturating_mul(width).max(1)).max(1)
}

/// A failure of a call, as the caller of a port should see it: nonsense is the peer's fault, a full cache is told apart.
pub(super) fn of_peer(fault: PortError) -> PortError {
    let kind = match (fault.kind(), remote_text(&fault)) {
        (_, Some(text)) if is_about_room(text) => FaultKind::Capacity,
        (FaultKind::TimedOut, _) => FaultKind::TimedOut,
        (FaultKind::Capacity, _) => FaultKind::Capacity,
        _ => FaultKind::Unavailable,
    };
    PortError::new(kind, fault.context()).with_source(fault)
}

/// What the peer itself said, where it said anything.
pub(super) fn remote_text(fault: &PortError) -> Option<&str> {
    let mut source = fault.source();
    while let Some(error) = source {
        if let Some(remote) = error.downcast_ref::<RemoteFault>() {
            return Some(&remote.text);
        }
        source = error.source();
    }
    None
}

/// Whether a stream broke or ended, rather than that the server refused.
pub(super) fn is_lost(fault: &PortError) -> bool {
    fault.kind() == FaultKind::Unavailable && remote_text(fault).is_none_or(str::is_empty)
}

/// The texts of a Python server whose cache is full, or that refuses sessions or messages of this length.
fn is_about_room(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["could not allocate", "cannot allocate", "allocationfailed", "max_batch_size"]
        .iter()
        .any(|phrase| text.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_below_every_servers_limits() {
        assert_eq!(most_positions(1, 64), 1024);
        assert_eq!(most_positions(4, 64), 256);
        assert_eq!(most_positions(1, 14336), 292);
        assert_eq!(most_positions(5000, 64), 1);
    }

    #[test]
    fn faults_tell_what_to_do() {
        let remote = |text: &str| {
            let source = RemoteFault { text: text.to_owned() };
            PortError::new(FaultKind::Unavailable, format!("failed: {text}")).with_source(source)
        };
        let full = of_peer(remote("Could not allocate 4194304 bytes, max cache size = 1 bytes"));
        assert_eq!((full.kind(), remote_text(&full).is_some()), (FaultKind::Capacity, true));
        let long = of_peer(remote("Cannot allocate KV cache for 9999 tokens, max = 2048"));
        assert_eq!(long.kind(), FaultKind::Capacity);
        let large =
            of_peer(remote("ValueError(\"Task size greater than max_batch_size (2048), it can't be processed\")"));
        assert_eq!(large.kind(), FaultKind::Capacity);
        assert_eq!(of_peer(remote("CUDA error")).kind(), FaultKind::Unavailable);
        assert_eq!(of_peer(PortError::invalid("nonsense")).kind(), FaultKind::Unavailable);
        assert_eq!(of_peer(PortError::new(FaultKind::TimedOut, "slow")).kind(), FaultKind::TimedOut);
    }
}
