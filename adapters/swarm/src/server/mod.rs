//! A server of blocks for Petals clients (wire protocol §6, §8), and the first node of a swarm.
//!
//! Callers are strangers: what each may hold, ask and leave unread is bounded, by what stands in [`ServerLimits`] and
//! beside each queue. A caller that goes takes its cache and its computation with it.

mod announce;
mod backward;
mod blocks;
mod config;
mod handler;
mod input;
mod map;
mod pass;
mod reach;
mod refusal;
mod session;
mod tenant;

use std::{sync::Arc, time::Duration};

use corolla_domain::{
    model::BlockRange,
    ports::{BlockEngine, PortError},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use self::{announce::Announcer, blocks::Blocks, handler::Handler, pass::Direction, reach::Reached};
pub use self::{
    announce::{NETWORK_BITS, Speed},
    config::{BootstrapConfig, ServerConfig, ServerLimits},
    reach::{RPC_CHECK, Reach, Reachability, Way},
    tenant::{Balance, Loader, Placement, Tenant},
};
use crate::{
    dht::DhtNode,
    rpc::{Caller, Rpc, RpcLimits, ServeLimits, Service, serve, serve_messages, serve_unary},
    transport::{Host, HostConfig, Multiaddr, PeerId, initial_peers},
    wire::{
        frame::{MAX_RECORD, MAX_UNARY},
        inference::{RPC_FORWARD, RPC_FORWARD_STREAM, RPC_INFERENCE, RPC_INFO},
        server::ServerState,
        serving::{RPC_BACKWARD, RPC_BACKWARD_STREAM, RPC_PUSH},
    },
};

/// What a server says that it runs: the release of Petals whose protocol it speaks, and what it is.
pub const VERSION: &str = concat!("2.3.0.dev2+corolla.", env!("CARGO_PKG_VERSION"));

/// Passes of one peer at a time, and of all, by one method.
const PASSES_OF_PEER: usize = 16;
const PASSES: usize = 256;

/// A member of a swarm that hosts nothing: others enter through it. Clones are the same member.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    host: Host,
    node: Arc<DhtNode>,
    reached: Arc<Reached>,
}

impl Bootstrap {
    /// Starts a member, in the swarm of its initial peers, or where there are none in one of its own.
    ///
    /// # Errors
    /// `InvalidInput` for addresses and files that cannot be used, `Unavailable` where no initial peer answers.
    pub async fn start(config: BootstrapConfig) -> Result<Self, PortError> {
        let listen = config.addresses()?;
        let host = enter(&config, &listen).await?;
        let reached = Reached::find_out(&host, &listen, config.reach).await?;
        let reached = Arc::new(reached);
        if !reached.relayed && config.reach == Reach::Ask {
            host.guide()?;
        }
        let initial = host.initial_peers().to_vec();
        let alone = initial.is_empty();
        let rpc = Rpc::new(host.clone(), RpcLimits::default());
        let node = Arc::new(DhtNode::start(rpc, initial, !reached.relayed).await?);
        if !alone {
            node.join().await?;
        }
        Ok(Self { host, node, reached })
    }

    /// Where others enter: addresses that end in `/p2p/` and its peer id.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        entrances(&self.host)
    }

    /// How others reach it.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        self.reached.outcome(&self.host)
    }

    /// Whether it is reached through relays only.
    fn is_relayed(&self) -> bool {
        self.reached.relayed
    }

    /// Its name in the swarm.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.host.peer_id()
    }

    /// Its place in the DHT, for those who look.
    #[must_use]
    pub fn node(&self) -> &DhtNode {
        &self.node
    }
}

/// How others would reach a server that listens and enters a swarm like this; it serves nothing and is soon gone.
///
/// # Errors
/// `InvalidInput` for addresses and files that cannot be used, `Unavailable` where no initial peer answers.
pub async fn reachability(config: &BootstrapConfig) -> Result<Reachability, PortError> {
    let listen = config.addresses()?;
    let host = enter(config, &listen).await?;
    let mut outcome = Err(PortError::invalid("there is no initial peer to ask"));
    for peer in host.initial_peers() {
        outcome = host.connect(*peer).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome?;
    Ok(Reached::find_out(&host, &listen, config.reach).await?.outcome(&host))
}

/// A host at the door of a swarm. One that has yet to find out whether others reach it does not tell them where peers live.
async fn enter(config: &BootstrapConfig, listen: &[Multiaddr]) -> Result<Host, PortError> {
    let peers = initial_peers(&config.initial_peers)?;
    Host::start(HostConfig {
        identity: config.identity.clone(),
        listen: listen.to_vec(),
        initial_peers: peers.into_iter().map(|(_, address)| address).collect(),
        access: config.access.clone(),
        guides: config.reach == Reach::Direct,
        max_connections: 4096,
        ..HostConfig::default()
    })
    .await
}

fn entrances(host: &Host) -> Vec<String> {
    let own = format!("/p2p/{}", host.peer_id());
    let entrance = |address: &Multiaddr| {
        let text = address.to_string();
        if text.ends_with(&own) { text } else { text + &own }
    };
    host.listen_addresses().iter().map(entrance).collect()
}

/// A server of blocks. Dropping it ends it without a word; [`shut_down`](Self::shut_down) says goodbye.
pub struct BlockServer {
    member: Bootstrap,
    announcer: Arc<Announcer>,
    states: watch::Sender<ServerState>,
    handler: watch::Sender<Option<Arc<Handler>>>,
    announcing: Option<JoinHandle<()>>,
    services: Vec<Service>,
}

impl BlockServer {
    /// Enters the swarm as `member` says, and announces that blocks are about to be served. They are once
    /// [`serve`](Self::serve) was called, which may take its time: models are large.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that cannot work, `Unavailable` where the swarm cannot be entered or told.
    pub async fn join(member: BootstrapConfig, config: ServerConfig) -> Result<Self, PortError> {
        config.check()?;
        let (server, announced) = Self::begin(Bootstrap::start(member).await?, config)?;
        announced.heard().await?;
        Ok(server)
    }

    /// Begins to announce that blocks are about to be served by a member of the swarm, which serves none yet. Whether the
    /// swarm has heard of it comes with the second; the server can say goodbye before.
    fn begin(member: Bootstrap, config: ServerConfig) -> Result<(Self, Announced), PortError> {
        config.check()?;
        let peer = member.host.peer_id().to_base58();
        let announcer = Arc::new(Announcer { node: member.node.clone(), config, peer, relayed: member.is_relayed() });
        let (states, handler) = (watch::Sender::new(ServerState::Joining), watch::Sender::new(None));
        let (announcing, announced) = announce(&announcer, &states, &handler);
        let server = Self { member, announcer, states, handler, announcing: Some(announcing), services: Vec::new() };
        Ok((server, announced))
    }

    /// Its name in the swarm.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.member.host.peer_id()
    }

    /// Where it can be reached.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.member.addresses()
    }

    /// How others reach it.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        self.member.reachability()
    }

    /// The blocks it serves, or is about to.
    #[must_use]
    pub fn blocks(&self) -> BlockRange {
        self.announcer.config.blocks
    }

    /// Sessions that are open now, and passes under way.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.handler.borrow().as_ref().map_or(0, |handler| handler.open_sessions())
    }

    /// Serves the engine, and announces that.
    ///
    /// # Errors
    /// `InvalidInput` for an engine of other blocks, `Conflict` where the member serves blocks already.
    pub async fn serve(&mut self, engine: Arc<dyn BlockEngine>) -> Result<(), PortError> {
        let config = &self.announcer.config;
        let (hosted, promised) = (engine.hosted(), config.blocks);
        if hosted != promised {
            return Err(PortError::invalid(format!("blocks {promised} were announced, the engine has {hosted}")));
        }
        let host = self.member.host.clone();
        let rpc = Rpc::new(host.clone(), RpcLimits::default());
        let handler = Arc::new(Handler::new(config.clone(), Blocks::new(engine), rpc, self.announcer.relayed));
        self.services = methods(&host, &handler).await?;
        self.handler.send_replace(Some(handler));
        self.states.send_replace(ServerState::Online);
        Ok(())
    }

    /// Announces that it goes: clients that look at the swarm come no more. It serves whoever comes nevertheless.
    async fn say_goodbye(&mut self) {
        if let Some(announcing) = self.announcing.take() {
            announcing.abort();
            let _ = announcing.await; // nothing may be announced after the goodbye
        }
        self.announcer.offline().await;
    }

    /// Takes the goodbye back.
    fn stay(&mut self) {
        self.announcing = Some(announce(&self.announcer, &self.states, &self.handler).0);
    }

    /// Takes no new sessions, lets those that are open go on for up to `grace`, and ends.
    async fn drain(&mut self, grace: Duration) {
        let handler = self.handler.borrow().clone();
        if let Some(handler) = handler
            && timeout(grace, handler.drain()).await.is_err()
        {
            tracing::warn!(sessions = handler.open_sessions(), "sessions are broken off");
        }
        for service in self.services.drain(..) {
            service.end().await;
        }
        self.handler.send_replace(None);
    }

    /// Announces that it goes, takes no new sessions, lets those that are open go on for up to `grace`, and ends.
    pub async fn shut_down(mut self, grace: Duration) {
        self.say_goodbye().await;
        self.drain(grace).await;
    }
}

impl Drop for BlockServer {
    fn drop(&mut self) {
        if let Some(announcing) = &self.announcing {
            announcing.abort();
        }
    }
}

/// What becomes of a server's first announcement.
struct Announced(oneshot::Receiver<Result<(), PortError>>);

impl Announced {
    /// Waits until the swarm has heard of the server.
    async fn heard(self) -> Result<(), PortError> {
        self.0.await.map_err(|_| PortError::internal("the announcements have ended"))?
    }
}

/// Begins to announce.
fn announce(
    announcer: &Arc<Announcer>,
    states: &watch::Sender<ServerState>,
    handler: &watch::Sender<Option<Arc<Handler>>>,
) -> (JoinHandle<()>, Announced) {
    let handlers = handler.subscribe();
    let free = move || handlers.borrow().as_ref().map(|handler| handler.blocks.free_tokens());
    let (first, told) = oneshot::channel();
    (tokio::spawn(announcer.clone().run(states.subscribe(), free, first)), Announced(told))
}

/// Serves all methods.
async fn methods(host: &Host, handler: &Arc<Handler>) -> Result<Vec<Service>, PortError> {
    let limits = ServeLimits::default();
    let large = ServeLimits {
        request: MAX_UNARY,
        calls: PASSES,
        calls_of_peer: PASSES_OF_PEER,
        arrival: Duration::from_secs(30),
        ..limits
    };
    let server = handler.config.limits;
    let sessions = ServeLimits { calls: server.sessions, calls_of_peer: server.sessions_of_peer, ..limits };
    let most = MAX_RECORD.min(longest_message(handler));
    let of = |handler: &Arc<Handler>| handler.clone();
    let (info, push, session) = (of(handler), of(handler), of(handler));
    let mut services = Vec::new();
    for (way, method, stream_method) in [
        (Direction::Forward, RPC_FORWARD, RPC_FORWARD_STREAM),
        (Direction::Backward, RPC_BACKWARD, RPC_BACKWARD_STREAM),
    ] {
        let (unary, streaming) = (of(handler), of(handler));
        let unary = serve_messages(host, method, large, handler.room.clone(), move |_, request| {
            let handler = unary.clone();
            Box::pin(async move { pass::unary(&handler, way, request).await })
        });
        services.push(unary.await?);
        let streaming = serve(host, stream_method, large, move |peer, stream| {
            let handler = streaming.clone();
            let caller = Caller::new(peer, stream, most, limits.write, handler.room.share(peer));
            Box::pin(async move { pass::stream(&handler, way, caller).await })
        });
        services.push(streaming.await?);
    }
    services.extend([
        serve_unary(host, RPC_INFO, limits, move |_, request| {
            let handler = info.clone();
            Box::pin(async move { handler.info(request) })
        })
        .await?,
        serve_messages(host, RPC_PUSH, large, handler.room.clone(), move |peer, request| {
            let handler = push.clone();
            Box::pin(async move { (handler.take_push(peer, request), ()) })
        })
        .await?,
        serve(host, RPC_INFERENCE, sessions, move |peer, stream| {
            let handler = session.clone();
            let caller = Caller::new(peer, stream, most, limits.write, handler.room.share(peer));
            Box::pin(async move { session::serve(handler, caller).await })
        })
        .await?,
    ]);
    Ok(services)
}

/// Bytes of the longest message that may be of use: hidden states in single precision, and as much for the prompts of each
/// block.
fn longest_message(handler: &Handler) -> usize {
    let states = handler.config.limits.max_batch.saturating_mul(handler.config.hidden).saturating_mul(4);
    states.saturating_mul(1 + handler.config.blocks.len()).saturating_add(64 << 10)
}
