//! The task that owns the swarm: it takes commands, drives connections, and says what is connected.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    error::Error,
    future::poll_fn,
    io,
};

use corolla_domain::ports::{FaultKind, PortError};
use futures_util::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, TransportError,
    allow_block_list::NotAllowed,
    core::upgrade::NegotiationError,
    identify,
    kad::KBucketKey,
    ping,
    pnet::PnetError,
    relay,
    swarm::{
        DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    access::Access,
    address_book::AddressBook,
    behaviour::{Behaviour, BehaviourEvent},
    find_node::PROTOCOL,
    streams::{Open, Reply},
};

/// Callers that may wait for connections.
const MAX_WAITING: usize = 4096;
/// Addresses taken from what a peer says of itself.
const MAX_INTRODUCED: usize = 16;
/// Peers named in an answer: a bucket of the daemons'.
const NEAREST: usize = 20;
/// Addresses that were tried in vain and are told.
const TRIED_SHOWN: usize = 3;

/// What a host asks of its actor.
#[derive(Debug)]
pub(super) enum Command {
    /// Connect by the addresses that are known; `NotFound` when there are none.
    Dial { peer: PeerId, reply: oneshot::Sender<Result<(), PortError>> },
    /// Open a stream on an existing connection.
    Open { peer: PeerId, protocol: StreamProtocol, reply: Reply },
    /// Note an address for good: the owner of the host says so.
    Keep { peer: PeerId, address: Multiaddr },
    /// Note addresses that other peers named.
    Learn { peer: PeerId, addresses: Vec<Multiaddr> },
    /// Name peers that know others, the nearest to a key first, and the very peer whose id it is.
    Nearest { key: Vec<u8>, reply: oneshot::Sender<Vec<(PeerId, Vec<Multiaddr>)>> },
    /// Forget nothing, but end all connections to a peer.
    Disconnect { peer: PeerId },
}

/// What the actor tells all handles.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    /// Connected peers; true: by relay only.
    pub(super) connected: Vec<(PeerId, bool)>,
    /// Addresses that are listened on.
    pub(super) listening: Vec<Multiaddr>,
}

/// The actor's state.
pub(super) struct Actor {
    swarm: Swarm<Behaviour>,
    access: Access,
    book: AddressBook,
    /// Connected peers that tell others where peers live.
    guides: HashSet<PeerId>,
    dialling: HashMap<PeerId, Vec<oneshot::Sender<Result<(), PortError>>>>,
    status: watch::Sender<Status>,
}

impl Actor {
    pub(super) fn new(swarm: Swarm<Behaviour>, access: Access, status: watch::Sender<Status>) -> Self {
        let (book, guides, dialling) = (AddressBook::default(), HashSet::new(), HashMap::new());
        Self { swarm, access, book, guides, dialling, status }
    }

    /// Runs until the last sender of commands is gone; then everything is closed.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.note(event),
            }
        }
        self.close().await;
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dial { peer, reply } => self.dial(peer, reply),
            Command::Open { peer, protocol, reply } => {
                self.swarm.behaviour_mut().streams.open(peer, Open { protocol, reply });
            }
            Command::Keep { peer, address } => self.book.give(peer, address),
            Command::Learn { peer, addresses } => {
                // The book puts the newest first; the giver's order stays.
                addresses.into_iter().rev().for_each(|address| self.book.add(peer, address));
            }
            Command::Nearest { key, reply } => {
                // Who asked may have gone.
                let _ = reply.send(self.nearest(key));
            }
            // An error says that there was no connection.
            Command::Disconnect { peer } => drop(self.swarm.disconnect_peer_id(peer)),
        }
    }

    fn dial(&mut self, peer: PeerId, reply: oneshot::Sender<Result<(), PortError>>) {
        if self.swarm.is_connected(&peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        if self.dialling.values().map(Vec::len).sum::<usize>() >= MAX_WAITING {
            let _ = reply.send(Err(PortError::new(FaultKind::Capacity, "too many callers wait for connections")));
            return;
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(self.book.of(&peer).into_iter().filter(|address| self.access.dials(address)).collect())
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {
                let waiting = self.dialling.entry(peer).or_default();
                waiting.retain(|waiting| !waiting.is_closed());
                waiting.push(reply);
            }
            Err(error) => {
                let _ = reply.send(Err(dial_fault(peer, &error, &self.access)));
            }
        }
    }

    fn note(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                self.announce();
                self.answer(peer_id, &Ok(()));
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                if !self.swarm.is_connected(&peer_id) {
                    self.guides.remove(&peer_id);
                }
                self.announce();
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. }
                if !self.swarm.is_connected(&peer) =>
            {
                self.answer(peer, &Err(dial_fault(peer, &error, &self.access)));
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, error = %chain(&error), "a connection was not let in");
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                let listening = self.swarm.listeners().cloned().collect();
                self.status.send_modify(|status| status.listening = listening);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.introduced(peer_id, info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                peer,
                connection,
                result: Err(ping::Failure::Timeout),
            })) => {
                tracing::debug!(%peer, "no answer to pings, hanging up");
                self.swarm.close_connection(connection);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Relay(relay::client::Event::OutboundCircuitEstablished {
                relay_peer_id,
                limit,
            })) => tracing::debug!(relay = %relay_peer_id, ?limit, "a relay leads to a peer"),
            _ => {}
        }
    }

    /// Notes where a connected peer says that it listens, and whether it can be asked for others.
    fn introduced(&mut self, peer: PeerId, info: identify::Info) {
        for address in info.listen_addrs.into_iter().take(MAX_INTRODUCED).collect::<Vec<_>>().into_iter().rev() {
            self.book.add(peer, address);
        }
        if info.protocols.iter().any(|protocol| protocol.as_ref() == PROTOCOL) {
            self.guides.insert(peer);
        } else {
            self.guides.remove(&peer);
        }
    }

    fn nearest(&self, key: Vec<u8>) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let own = *self.swarm.local_peer_id();
        let target = PeerId::from_bytes(&key).ok();
        let key = KBucketKey::new(key);
        let mut guides: Vec<PeerId> = self.guides.iter().copied().filter(|peer| Some(*peer) != target).collect();
        guides.sort_by_cached_key(|peer| KBucketKey::from(*peer).distance(&key));
        guides.truncate(NEAREST);
        let place = |peer: PeerId| {
            let addresses = if peer == own { self.swarm.listeners().cloned().collect() } else { self.book.bare(&peer) };
            (peer, addresses)
        };
        let named = target.into_iter().chain(guides).map(place);
        named.filter(|(_, addresses): &(_, Vec<_>)| !addresses.is_empty()).collect()
    }

    fn announce(&mut self) {
        let connected = self.swarm.behaviour().streams.connected();
        self.status.send_modify(|status| status.connected = connected);
    }

    fn answer(&mut self, peer: PeerId, outcome: &Result<(), PortError>) {
        if let Entry::Occupied(waiting) = self.dialling.entry(peer) {
            for reply in waiting.remove() {
                // A caller that has gone needs no answer.
                let _ = reply.send(outcome.clone());
            }
        }
    }

    /// Says goodbye, so that peers need not wait for a time-out.
    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let farewell = async {
            while self.swarm.network_info().connection_counters().num_established() > 0 {
                poll_fn(|cx| self.swarm.poll_next_unpin(cx)).await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), farewell).await;
    }
}

fn dial_fault(peer: PeerId, error: &DialError, access: &Access) -> PortError {
    let unavailable = |why: String| PortError::new(FaultKind::Unavailable, format!("no connection to {peer}: {why}"));
    match error {
        DialError::NoAddresses => PortError::new(FaultKind::NotFound, format!("no address of {peer} is known")),
        DialError::LocalPeerId { .. } => PortError::invalid(format!("{peer} is this host itself")),
        DialError::Denied { cause } if cause.downcast_ref::<NotAllowed>().is_some() => {
            unavailable("it is not in the list of allowed peers".to_owned())
        }
        DialError::Denied { .. } => PortError::new(FaultKind::Capacity, format!("no connection to {peer}: {error}")),
        DialError::Transport(attempts) if attempts.iter().any(|(_, error)| strange(error)) => {
            unavailable(format!("{}; {}", access.misunderstood(), in_a_line(error)))
        }
        _ => unavailable(in_a_line(error)),
    }
}

/// Whether somebody was there, but said nothing that can be understood: as with different swarm secrets.
fn strange(error: &TransportError<io::Error>) -> bool {
    let TransportError::Other(error) = error else { return false };
    let Some(error) = error.get_ref() else { return false };
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<NegotiationError>() || error.is::<PnetError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error and its causes.
fn chain(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// libp2p writes a line for each address that was tried, and nests them.
fn in_a_line(error: &DialError) -> String {
    let DialError::Transport(tried) = error else { return error.to_string() };
    let reason = |(address, error): &(Multiaddr, TransportError<io::Error>)| {
        let mut cause: &dyn Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let cause = cause.to_string();
        format!("{address}: {}", cause.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let mut reasons: Vec<String> = tried.iter().take(TRIED_SHOWN).map(reason).collect();
    if tried.len() > TRIED_SHOWN {
        reasons.push(format!("and {} more addresses", tried.len() - TRIED_SHOWN));
    }
    reasons.join("; ")
}
