//! The behaviour that opens and accepts raw streams by protocol name: many at once on a connection, all bounded.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use corolla_domain::ports::{FaultKind, PortError};
use futures_util::future::{BoxFuture, Either};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, InboundUpgrade, OutboundUpgrade, UpgradeInfo, multiaddr::Protocol, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};

use super::conduct::Conduct;

/// Requests that may wait in the behaviour, and in each connection's handler.
const MAX_WAITING: usize = 4096;

/// Where the outcome of an opening goes.
pub(super) type Reply = oneshot::Sender<Result<Stream, PortError>>;

/// A stream to be opened.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) protocol: StreamProtocol,
    pub(super) reply: Reply,
}

/// Protocols that are accepted, and who takes their streams.
#[derive(Debug, Default)]
pub(super) struct Acceptors(Mutex<HashMap<StreamProtocol, mpsc::Sender<(PeerId, Stream)>>>);

impl Acceptors {
    /// Streams of `protocol`, from now until the receiver is dropped; at most `capacity` wait, more are reset.
    pub(super) fn register(
        &self,
        protocol: StreamProtocol,
        capacity: usize,
    ) -> Result<mpsc::Receiver<(PeerId, Stream)>, PortError> {
        let mut acceptors = self.lock();
        if acceptors.contains_key(&protocol) {
            return Err(PortError::new(FaultKind::Conflict, format!("{protocol} is accepted already")));
        }
        let (sender, receiver) = mpsc::channel(capacity);
        acceptors.insert(protocol, sender);
        Ok(receiver)
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        self.lock().keys().cloned().collect()
    }

    fn deliver(&self, peer: PeerId, protocol: &StreamProtocol, stream: Stream) {
        let sender = self.lock().get(protocol).cloned();
        if sender.is_none_or(|sender| sender.try_send((peer, stream)).is_err()) {
            tracing::debug!(%peer, %protocol, "nobody has room for an incoming stream");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamProtocol, mpsc::Sender<(PeerId, Stream)>>> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.retain(|_, sender| !sender.is_closed());
        guard
    }
}

/// Opens streams on command and hands out those that come in.
pub(super) struct Behaviour {
    acceptors: Arc<Acceptors>,
    conduct: Conduct,
    /// Connections by peer, direct ones first.
    connections: HashMap<PeerId, Vec<(ConnectionId, bool)>>,
    waiting: VecDeque<(PeerId, ConnectionId, Open)>,
    waker: Option<Waker>,
    timeout: Duration,
}

impl Behaviour {
    /// A behaviour whose negotiations take at most `timeout`.
    pub(super) fn new(acceptors: Arc<Acceptors>, conduct: Conduct, timeout: Duration) -> Self {
        Self { acceptors, conduct, connections: HashMap::new(), waiting: VecDeque::new(), waker: None, timeout }
    }

    /// Opens a stream on a connection that exists, a direct one where there is one. Without any the request is dropped,
    /// as it is when its connection ends.
    pub(super) fn open(&mut self, peer: PeerId, open: Open) {
        let Some((connection, _)) = self.connections.get(&peer).and_then(|all| all.first()) else {
            return;
        };
        if self.waiting.len() >= MAX_WAITING {
            refuse(open, FaultKind::Capacity, "too many streams are being opened".to_owned());
            return;
        }
        self.waiting.push_back((peer, *connection, open));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The connected peers, and whether each is reached by relay only.
    pub(super) fn connected(&self) -> Vec<(PeerId, bool)> {
        self.connections.iter().map(|(peer, all)| (*peer, all.iter().all(|(_, relayed)| *relayed))).collect()
    }

    fn handler(&self, peer: PeerId) -> Handler {
        let (acceptors, conduct) = (self.acceptors.clone(), self.conduct.clone());
        Handler { peer, acceptors, conduct, waiting: VecDeque::new(), timeout: self.timeout }
    }
}

fn refuse(open: Open, kind: FaultKind, context: String) {
    // The caller may have gone; then nobody needs the answer.
    let _ = open.reply.send(Err(PortError::new(kind, context)));
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                let relayed = endpoint.get_remote_address().iter().any(|part| part == Protocol::P2pCircuit);
                let all = self.connections.entry(peer_id).or_default();
                all.push((connection_id, relayed));
                all.sort_by_key(|(_, relayed)| *relayed);
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(all) = self.connections.get_mut(&closed.peer_id) {
                    all.retain(|(id, _)| *id != closed.connection_id);
                    if all.is_empty() {
                        self.connections.remove(&closed.peer_id);
                    }
                }
                // Dropping a request tells the caller that the connection was closed.
                self.waiting.retain(|(_, id, _)| *id != closed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        while let Some((peer_id, connection, open)) = self.waiting.pop_front() {
            if !open.reply.is_closed() {
                return Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::One(connection),
                    event: open,
                });
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// One connection's part of the behaviour.
pub(super) struct Handler {
    peer: PeerId,
    acceptors: Arc<Acceptors>,
    conduct: Conduct,
    waiting: VecDeque<Open>,
    timeout: Duration,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Taken;
    type OutboundProtocol = Names;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Taken> {
        let taken = Taken { names: Names(self.acceptors.protocols()), peer: self.peer, conduct: self.conduct.clone() };
        SubstreamProtocol::new(taken, ()).with_timeout(self.timeout)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Names, Reply, Infallible>> {
        while let Some(Open { protocol, reply }) = self.waiting.pop_front() {
            if !reply.is_closed() {
                let protocol = SubstreamProtocol::new(Names(vec![protocol]), reply).with_timeout(self.timeout);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.waiting.len() >= MAX_WAITING {
            refuse(open, FaultKind::Capacity, format!("too many streams to {} are being opened", self.peer));
        } else {
            self.waiting.push_back(open);
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Taken, Names, (), Reply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), .. }) => {
                self.acceptors.deliver(self.peer, &name, stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                // A caller that has gone drops the stream, which resets it.
                let _ = info.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => {
                let _ = info.send(Err(opening_fault(self.peer, error)));
            }
            _ => {}
        }
    }
}

fn opening_fault(peer: PeerId, error: StreamUpgradeError<Infallible>) -> PortError {
    match error {
        StreamUpgradeError::Timeout => PortError::new(FaultKind::TimedOut, format!("{peer} did not open a stream")),
        StreamUpgradeError::NegotiationFailed => {
            PortError::new(FaultKind::Unavailable, format!("{peer} does not speak the protocol"))
        }
        StreamUpgradeError::Io(error) => {
            PortError::new(FaultKind::Unavailable, format!("opening a stream to {peer}: {error}")).with_source(error)
        }
        StreamUpgradeError::Apply(never) => match never {},
    }
}

/// The names that may be agreed on for one stream.
#[derive(Debug, Clone)]
pub(super) struct Names(Vec<StreamProtocol>);

impl UpgradeInfo for Names {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

/// The names that a peer may choose from for a stream of its own, which is taken up when it is its turn. Those that wait count
/// as being negotiated: when there are many, the connection takes no more.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    names: Names,
    peer: PeerId,
    conduct: Conduct,
}

impl UpgradeInfo for Taken {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.names.protocol_info()
    }
}

impl InboundUpgrade<Stream> for Taken {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Either<Ready<Result<Self::Output, Infallible>>, BoxFuture<'static, Result<Self::Output, Infallible>>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        match self.conduct.turn(self.peer) {
            None => Either::Left(ready(Ok((stream, name)))),
            Some(turn) => Either::Right(Box::pin(async move {
                sleep_until(turn).await;
                Ok((stream, name))
            })),
        }
    }
}

impl OutboundUpgrade<Stream> for Names {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
