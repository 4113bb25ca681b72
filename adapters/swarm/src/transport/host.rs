//! The handle on a running host.

use std::{io, sync::Arc, time::Duration};

use corolla_domain::ports::{FaultKind, PortError};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, core::multiaddr::Protocol, identity::Keypair};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    actor::{Actor, Command, Status},
    address_book::peer_of,
    behaviour,
    conduct::Conduct,
    config::HostConfig,
    find_node, identity, kademlia,
    multistream::local_name,
    roster::is_circuit,
    streams::Acceptors,
};

/// Commands that may wait for the actor; senders wait beyond that.
const COMMANDS: usize = 256;
/// Incoming streams of one protocol that may wait to be taken.
const INCOMING: usize = 512;
/// Searches for addresses at a time.
const SEARCHES: usize = 8;
/// Connections on which opening a stream is tried, where they end meanwhile.
const OPENINGS: usize = 3;
/// What a ping carries.
const PING_BYTES: usize = 32;

/// A libp2p host. Clones share it; when the last is dropped, the host closes every connection and ends.
#[derive(Debug, Clone)]
pub struct Host {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    key: Keypair,
    peer: PeerId,
    config: HostConfig,
    initial: Vec<PeerId>,
    acceptors: Arc<Acceptors>,
    conduct: Conduct,
    status: watch::Receiver<Status>,
    searches: Semaphore,
}

impl Host {
    /// Starts a host on the current tokio runtime; returns when it listens on every address it was given.
    ///
    /// # Errors
    /// `InvalidInput` for an identity file that holds no key, an initial peer without `/p2p/` or one that is not allowed,
    /// or an address that cannot be used; `Internal` when the transports cannot be set up.
    pub async fn start(config: HostConfig) -> Result<Self, PortError> {
        let path = config.identity.clone();
        let key = tokio::task::spawn_blocking(move || identity::load(path.as_deref()))
            .await
            .map_err(|e| PortError::internal("reading the identity file").with_source(e))??;
        Self::start_as(key, config).await
    }

    async fn start_as(key: Keypair, config: HostConfig) -> Result<Self, PortError> {
        let peer = key.public().to_peer_id();
        let mut known = Vec::new();
        for address in &config.initial_peers {
            let named = peer_of(address).ok_or_else(|| {
                PortError::invalid(format!("initial peer {address} does not end in /p2p/ and a peer id"))
            })?;
            config.access.check_peer(named, address)?;
            known.push((named, address.clone()));
        }
        let (acceptors, conduct) = (Arc::new(Acceptors::default()), Conduct::default());
        let mut swarm = behaviour::build(&key, &config, acceptors.clone(), conduct.clone())?;
        for address in &config.listen {
            config.access.check("address to listen on", address)?;
            swarm
                .listen_on(address.clone())
                .map_err(|e| PortError::invalid(format!("cannot listen on {address}: {e}")))?;
        }
        let (status, watched) = watch::channel(Status::default());
        let (commands, received) = mpsc::channel(COMMANDS);
        let mut initial: Vec<PeerId> = known.iter().map(|(peer, _)| *peer).collect();
        initial.dedup();
        tokio::spawn(Actor::new(swarm, config.access.clone(), initial.clone(), status).run(received));
        let (wanted, open_timeout, guides) = (config.listen.len(), config.open_timeout, config.guides);
        let (searches, status) = (Semaphore::new(SEARCHES), watched.clone());
        let shared = Shared { key, peer, config, initial, acceptors, conduct, status, searches };
        let host = Self { commands, shared: Arc::new(shared) };
        if guides {
            host.guide()?;
        }
        for (peer, address) in known {
            host.add_address(peer, address).await;
        }
        let mut watched = watched;
        let listening = watched.wait_for(|status| status.listening.len() >= wanted);
        match timeout(open_timeout, listening).await {
            Ok(Ok(_)) => {}
            _ => return Err(PortError::invalid("the host could not listen on every address it was given")),
        }
        Ok(host)
    }

    /// This host's own id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer
    }

    /// The addresses it listens on, without `/p2p/`.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.status.borrow().listening.clone()
    }

    /// The peers that are connected now, and whether each is reached through a relay only.
    #[must_use]
    pub fn connected(&self) -> Vec<(PeerId, bool)> {
        self.shared.status.borrow().connected.clone()
    }

    /// Whether `peer` is connected, and through a relay only.
    #[must_use]
    pub fn is_relayed(&self, peer: PeerId) -> bool {
        self.shared.status.borrow().connected.contains(&(peer, true))
    }

    /// Notes for good where `peer` may be found.
    pub async fn add_address(&self, peer: PeerId, address: Multiaddr) {
        let _ = self.commands.send(Command::Keep { peer, address }).await;
    }

    /// Connects to `peer`, by the addresses that are known or, failing that, by those that other peers know. The
    /// connection then stays. May be dropped at any time.
    ///
    /// # Errors
    /// `Unavailable` when nobody knows an address or none answers, `TimedOut` after the dial time-out.
    pub async fn connect(&self, peer: PeerId) -> Result<(), PortError> {
        if peer == self.shared.peer {
            return Err(PortError::invalid(format!("{peer} is this host itself")));
        }
        let limit = self.shared.config.dial_timeout;
        timeout(limit, self.reach(peer)).await.unwrap_or_else(|_| {
            let why = self.shared.config.access.unanswered();
            Err(timed_out(format!("no connection to {peer} within {limit:?}: {why}")))
        })
    }

    /// Ends all connections to `peer`; their streams fail.
    pub async fn disconnect(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Disconnect { peer }).await;
    }

    /// Opens a stream to `peer` for `protocol` (on the wire as given: hivemind's names have no leading slash), connecting
    /// first where needed. Dropping the stream resets it.
    ///
    /// # Errors
    /// As `connect`; `Unavailable` when the peer does not speak the protocol or hangs up, `TimedOut` when it does not
    /// answer, `Capacity` when too many openings wait.
    pub async fn open_stream(&self, peer: PeerId, protocol: &str) -> Result<Stream, PortError> {
        let mut status = self.shared.status.clone();
        for _ in 0..OPENINGS {
            status.mark_unchanged();
            self.connect(peer).await?;
            if let Some(stream) = self.try_open(peer, protocol).await? {
                return Ok(stream);
            }
            // The connection has ended. Once the host has noted that, there is a new one to be made.
            let noted = timeout(self.shared.config.open_timeout, status.changed()).await;
            if !matches!(noted, Ok(Ok(()))) {
                return Err(closed(peer));
            }
        }
        // Every connection ended before a stream was agreed on.
        Err(PortError::new(
            FaultKind::Unavailable,
            format!(
                "the connection to {peer} was closed at once, again and again: it may admit listed peers only, and this one \
                 is {}",
                self.shared.peer
            ),
        ))
    }

    /// Takes the streams that peers open for `protocol`, until the answer is dropped.
    ///
    /// # Errors
    /// `Conflict` when the protocol is taken already.
    #[expect(clippy::unused_async, reason = "callers should not depend on how the registration is done")]
    pub async fn accept(&self, protocol: &str) -> Result<Incoming, PortError> {
        self.incoming(protocol)
    }

    /// The time a small packet takes to `peer` and back, over the connection that calls use.
    ///
    /// # Errors
    /// As `open_stream`.
    pub async fn ping(&self, peer: PeerId) -> Result<Duration, PortError> {
        let mut stream = self.open_stream(peer, "/ipfs/ping/1.0.0").await?;
        let limit = self.shared.config.open_timeout;
        let exchange = async {
            let (sent, mut back) = (PeerId::random().to_bytes(), [0; PING_BYTES]);
            let sent = &sent[sent.len() - PING_BYTES..];
            let start = Instant::now();
            stream.write_all(sent).await?;
            stream.flush().await?;
            stream.read_exact(&mut back).await?;
            if back == *sent { Ok(start.elapsed()) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
        };
        match timeout(limit, exchange).await {
            Ok(Ok(time)) => Ok(time),
            Ok(Err(error)) => Err(PortError::new(FaultKind::Unavailable, format!("pinging {peer}")).with_source(error)),
            Err(_) => Err(timed_out(format!("no answer to a ping from {peer} within {limit:?}"))),
        }
    }

    /// Tells others from now on where the peers live that this host knows.
    ///
    /// # Errors
    /// `Conflict` where it does already.
    pub(crate) fn guide(&self) -> Result<(), PortError> {
        let questions = self.incoming(find_node::PROTOCOL)?;
        tokio::spawn(kademlia::serve(questions, Directory(self.commands.downgrade())));
        Ok(())
    }

    /// What peers have cost in vain.
    pub(crate) fn conduct(&self) -> &Conduct {
        &self.shared.conduct
    }

    fn incoming(&self, protocol: &str) -> Result<Incoming, PortError> {
        let streams = self.shared.acceptors.register(stream_protocol(protocol)?, INCOMING)?;
        Ok(Incoming { streams, conduct: self.shared.conduct.clone() })
    }

    /// Others reach this host directly: from now on it says where, and relays for those who are not reached.
    pub(crate) async fn go_public(&self) {
        let _ = self.commands.send(Command::Public).await;
    }

    /// Takes a slot at a relay: others reach this host through it, as long as the connection lasts. Ends when the relay has
    /// answered, or its connection or the library's patience has ended; must not be given up before.
    ///
    /// # Errors
    /// `NotFound` where no address of it is known, `Unavailable` where it refuses.
    pub(crate) async fn reserve(&self, relay: PeerId) -> Result<(), PortError> {
        self.dial(relay).await?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Reserve { relay, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The relays through which others reach this host.
    pub(crate) fn reserved(&self) -> Vec<PeerId> {
        let relay = |address: &Multiaddr| {
            let mut parts = address.iter().take_while(|part| *part != Protocol::P2pCircuit);
            parts.find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None })
        };
        let status = self.shared.status.borrow();
        let mut relays: Vec<PeerId> =
            status.listening.iter().filter(|address| is_circuit(address)).filter_map(relay).collect();
        relays.sort_unstable();
        relays.dedup();
        relays
    }

    /// Connected peers that relay.
    pub(crate) fn relays(&self) -> Vec<PeerId> {
        self.shared.status.borrow().relays.clone()
    }

    /// Tells of changes of connections and addresses from now on.
    pub(crate) fn changes(&self) -> Changes {
        let mut status = self.shared.status.clone();
        status.mark_unchanged();
        Changes(status)
    }

    /// Where a connected peer may be reached by others, as soon as it has introduced itself; all on the machines from which
    /// it is connected directly.
    ///
    /// # Errors
    /// `Unavailable` where it is not connected.
    pub(crate) async fn candidates(&self, peer: PeerId) -> Result<Vec<Multiaddr>, PortError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Candidates { peer, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| closed(peer))
    }

    /// A host for trying whether others can be reached: it knows nobody, listens nowhere and is soon dropped. Where there is
    /// a list of members it goes by this host's name, since another one would be refused.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub(crate) async fn probe(&self, patience: Duration) -> Result<Self, PortError> {
        let access = self.shared.config.access.clone();
        let key = if access.allowed.is_some() { self.shared.key.clone() } else { Keypair::generate_ed25519() };
        let config =
            HostConfig { access, dial_timeout: patience, max_connections: 4, max_streams: 16, ..HostConfig::default() };
        Self::start_as(key, config).await
    }

    /// Peers to ask first.
    pub(crate) fn initial_peers(&self) -> &[PeerId] {
        &self.shared.initial
    }

    pub(super) async fn learn(&self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let _ = self.commands.send(Command::Learn { peer, addresses }).await;
    }

    /// Connects by known addresses only.
    pub(super) async fn dial(&self, peer: PeerId) -> Result<(), PortError> {
        if self.shared.status.borrow().connected.iter().any(|(connected, _)| *connected == peer) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Dial { peer, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Opens a stream on an existing connection.
    pub(super) async fn open(&self, peer: PeerId, protocol: &str) -> Result<Stream, PortError> {
        self.try_open(peer, protocol).await?.ok_or_else(|| closed(peer))
    }

    /// As `open`; `None` when the connection has ended.
    async fn try_open(&self, peer: PeerId, protocol: &str) -> Result<Option<Stream>, PortError> {
        let protocol = stream_protocol(protocol)?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Open { peer, protocol, reply }).await.map_err(|_| gone())?;
        match timeout(self.shared.config.open_timeout, answer).await {
            Ok(Ok(outcome)) => outcome.map(Some),
            Ok(Err(_)) => Ok(None),
            Err(_) => Err(timed_out(format!("{peer} did not open a stream in time"))),
        }
    }

    async fn reach(&self, peer: PeerId) -> Result<(), PortError> {
        // A stale address that swallows packets must leave time to ask for a better one.
        let patience = self.shared.config.dial_timeout / 2;
        let first = match timeout(patience, self.dial(peer)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.kind() == FaultKind::Capacity => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => {
                let why = self.shared.config.access.unanswered();
                timed_out(format!("no known address of {peer} answers: {why}"))
            }
        };
        let _turn = self.shared.searches.acquire().await.map_err(|_| gone())?;
        if find_node::search(self, peer).await {
            return Ok(());
        }
        if first.kind() == FaultKind::NotFound {
            return Err(PortError::new(FaultKind::Unavailable, format!("nobody knows an address of {peer}")));
        }
        Err(first)
    }
}

/// Looks peers up in what a host knows. Does not keep the host alive.
#[derive(Debug, Clone)]
pub(super) struct Directory(mpsc::WeakSender<Command>);

impl Directory {
    /// Peers that know others, the nearest to `key` first, and the very peer whose id `key` is.
    pub(super) async fn nearest(&self, key: Vec<u8>) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let Some(commands) = self.0.upgrade() else { return Vec::new() };
        let (reply, answer) = oneshot::channel();
        let _ = commands.send(Command::Nearest { key, reply }).await;
        answer.await.unwrap_or_default()
    }
}

/// Changes of a host's connections and addresses. Does not keep the host alive.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<Status>);

impl Changes {
    /// Waits for the next change, one since the last call included; false when the host has ended.
    pub(crate) async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Streams that peers open for one protocol. Dropping it refuses the protocol again.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<(PeerId, Stream)>,
    conduct: Conduct,
}

impl Incoming {
    /// The next stream and who opened it; `None` when the host has ended.
    pub async fn next(&mut self) -> Option<(PeerId, Stream)> {
        self.streams.recv().await
    }

    pub(super) fn conduct(&self) -> &Conduct {
        &self.conduct
    }
}

fn stream_protocol(wire: &str) -> Result<StreamProtocol, PortError> {
    StreamProtocol::try_from_owned(local_name(wire)).map_err(|e| PortError::invalid(format!("protocol {wire:?}: {e}")))
}

fn timed_out(context: String) -> PortError {
    PortError::new(FaultKind::TimedOut, context)
}

fn closed(peer: PeerId) -> PortError {
    PortError::new(FaultKind::Unavailable, format!("the connection to {peer} was closed"))
}

fn gone() -> PortError {
    PortError::new(FaultKind::Unavailable, "the host has ended")
}
