//! The task that owns the swarm: it takes commands, drives connections, and says what is connected.

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    future::poll_fn,
    io,
};

use corolla_domain::ports::{FaultKind, PortError};
use futures_util::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, TransportError,
    allow_block_list::NotAllowed,
    core::{multiaddr::Protocol, transport::ListenerId, upgrade::NegotiationError},
    dcutr, identify,
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
    roster::{self, Roster, is_circuit},
    streams::{Open, Reply},
};

/// Callers that may wait for connections.
const MAX_WAITING: usize = 4096;
/// Addresses taken from what a peer says of itself.
const MAX_INTRODUCED: usize = 16;
/// Addresses at which the initial peers see this host.
const MAX_SEEN: usize = 4;
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
    /// Say where a connected peer may be reached by others, once it has introduced itself.
    Candidates { peer: PeerId, reply: oneshot::Sender<Vec<Multiaddr>> },
    /// Take a slot at a connected relay: others reach this host through it as long as the connection lasts.
    Reserve { relay: PeerId, reply: oneshot::Sender<Result<(), PortError>> },
    /// Others reach this host directly: say where, and relay for those who are not reached.
    Public,
    /// Forget nothing, but end all connections to a peer.
    Disconnect { peer: PeerId },
}

/// What the actor tells all handles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// Connected peers; true: by relay only.
    pub(super) connected: Vec<(PeerId, bool)>,
    /// Addresses that are listened on; those through relays among them.
    pub(super) listening: Vec<Multiaddr>,
    /// Connected peers that relay.
    pub(super) relays: Vec<PeerId>,
    /// Connections that have ended so far: who was about to open a stream on one must know.
    pub(super) ended: u64,
}

/// The actor's state.
pub(super) struct Actor {
    swarm: Swarm<Behaviour>,
    access: Access,
    book: AddressBook,
    roster: Roster,
    /// Peers whose word counts on where this host is seen, and what they said.
    initial: Vec<PeerId>,
    seen: Vec<Multiaddr>,
    /// Whether others reach this host directly.
    public: bool,
    /// Connections that have ended.
    ended: u64,
    dialling: HashMap<PeerId, Vec<oneshot::Sender<Result<(), PortError>>>>,
    reserving: HashMap<ListenerId, oneshot::Sender<Result<(), PortError>>>,
    status: watch::Sender<Status>,
}

impl Actor {
    /// The actor of a host that believes what the `initial` peers say about it.
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        access: Access,
        initial: Vec<PeerId>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            swarm,
            access,
            book: AddressBook::default(),
            roster: Roster::default(),
            initial,
            seen: Vec::new(),
            public: false,
            ended: 0,
            dialling: HashMap::new(),
            reserving: HashMap::new(),
            status,
        }
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
            Command::Candidates { peer, reply } => self.roster.candidates(peer, reply),
            Command::Reserve { relay, reply } => self.reserve(relay, reply),
            Command::Public => {
                self.public = true;
                if let Some(hop) = self.swarm.behaviour_mut().hop.as_mut() {
                    hop.set_status(Some(relay::Status::Enable));
                }
                self.advertise();
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

    fn reserve(&mut self, relay: PeerId, reply: oneshot::Sender<Result<(), PortError>>) {
        let known = || self.book.bare(&relay).into_iter().find(|address| !is_circuit(address));
        let Some(address) = self.roster.way(&relay).cloned().or_else(known) else {
            let _ =
                reply.send(Err(PortError::new(FaultKind::NotFound, format!("no address of relay {relay} is known"))));
            return;
        };
        let slot: Multiaddr = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        match self.swarm.listen_on(slot.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit)) {
            Ok(listener) => drop(self.reserving.insert(listener, reply)),
            Err(error) => {
                let _ = reply.send(Err(PortError::invalid(format!("relay {relay} cannot be used: {error}"))));
            }
        }
    }

    /// Tells peers, and those who take slots here, where this host is reached.
    fn advertise(&mut self) {
        if !self.public {
            return;
        }
        let direct: Vec<Multiaddr> = self.swarm.listeners().filter(|it| !is_circuit(it)).cloned().collect();
        // Loopback leads elsewhere for everybody else, unless there is nothing but loopback.
        let loopback = |it: &Multiaddr| roster::ip(it).is_some_and(|ip| ip.is_loopback());
        let local = direct.iter().all(loopback);
        let seen = self.seen.iter().flat_map(|seen| roster::seen_at(seen, &direct));
        let all: Vec<Multiaddr> = direct.iter().cloned().chain(seen).filter(|it| local || !loopback(it)).collect();
        for address in all {
            self.swarm.add_external_address(address);
        }
    }

    fn note(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.roster.connected(peer_id, connection_id, &endpoint);
                self.announce();
                self.answer(peer_id, &Ok(()));
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                self.roster.disconnected(peer_id, connection_id, !self.swarm.is_connected(&peer_id));
                self.ended += 1;
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
            SwarmEvent::NewListenAddr { listener_id, .. } => {
                self.listens();
                if let Some(reply) = self.reserving.remove(&listener_id) {
                    let _ = reply.send(Ok(())); // who asked may have gone
                }
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.listens(),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                self.listens();
                if let Some(reply) = self.reserving.remove(&listener_id) {
                    let why =
                        reason.err().map_or_else(|| "the connection to it ended".to_owned(), |error| chain(&error));
                    let fault = PortError::new(FaultKind::Unavailable, format!("a relay gives no slot: {why}"));
                    let _ = reply.send(Err(fault));
                }
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
            SwarmEvent::Behaviour(BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id: peer, result })) => match result
            {
                Ok(_) => tracing::info!(%peer, "a direct connection takes the place of the relayed one"),
                Err(error) => tracing::debug!(%peer, error = %chain(&error), "there is no direct way, the relay stays"),
            },
            _ => {}
        }
    }

    fn listens(&mut self) {
        self.announce();
        self.advertise();
    }

    /// Notes where a connected peer says that it listens, and what it can be asked for.
    fn introduced(&mut self, peer: PeerId, mut info: identify::Info) {
        info.listen_addrs.truncate(MAX_INTRODUCED);
        for address in info.listen_addrs.iter().rev() {
            self.book.add(peer, address.clone());
        }
        let direct = !is_circuit(&info.observed_addr); // otherwise it is the relay that is seen
        if direct
            && self.initial.contains(&peer)
            && self.seen.len() < MAX_SEEN
            && !self.seen.contains(&info.observed_addr)
        {
            self.seen.push(info.observed_addr);
            self.advertise();
        }
        self.roster.introduced(peer, &info.listen_addrs, &info.protocols);
        self.announce();
    }

    fn nearest(&self, key: Vec<u8>) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let own = *self.swarm.local_peer_id();
        let target = PeerId::from_bytes(&key).ok();
        let key = KBucketKey::new(key);
        let others = self.roster.guides().filter(|place| Some(*place.preimage()) != target);
        let mut guides: Vec<_> = others.map(|place| (place.distance(&key), *place.preimage())).collect();
        guides.sort_unstable();
        guides.truncate(NEAREST);
        let guides = guides.into_iter().map(|(_, peer)| peer);
        let place = |peer: PeerId| {
            let mut addresses = if peer == own { Vec::new() } else { self.book.bare(&peer) };
            if peer == own {
                addresses.extend(self.swarm.listeners().chain(self.swarm.external_addresses()).cloned());
                addresses.sort_unstable();
                addresses.dedup();
            }
            (peer, addresses)
        };
        let named = target.into_iter().chain(guides).map(place);
        named.filter(|(_, addresses): &(_, Vec<_>)| !addresses.is_empty()).collect()
    }

    /// Shows all handles how things stand.
    fn announce(&mut self) {
        let mut connected = self.swarm.behaviour().streams.connected();
        connected.sort_unstable();
        let mut listening: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        listening.sort_unstable();
        let mut relays = self.roster.relays();
        relays.sort_unstable();
        show(&self.status, Status { connected, listening, relays, ended: self.ended });
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

/// Shows a status; who waits for a change is woken where there is one.
fn show(shown: &watch::Sender<Status>, status: Status) {
    shown.send_if_modified(|shown| {
        let changed = *shown != status;
        *shown = status;
        changed
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_woken_for_nothing() {
        let (shown, watched) = watch::channel(Status::default());
        show(&shown, Status::default());
        assert!(!watched.has_changed().unwrap());
        // One of two connections to a peer has ended: whoever opens a stream on it waits for just that.
        show(&shown, Status { ended: 1, ..Status::default() });
        assert!(watched.has_changed().unwrap());
    }
}
