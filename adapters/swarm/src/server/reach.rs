//! Whether others reach this member directly: asked of them, answered for them (wire protocol §6.8), and slots at relays
//! where they do not.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::ports::PortError;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout},
};

use crate::{
    rpc::{Rpc, RpcLimits, ServeLimits, Service, serve_unary},
    transport::{Host, Multiaddr, PeerId, ip, is_circuit, port},
    wire::proto::{self, NodeInfo, PingRequest, PingResponse},
};

/// The method that asks a peer to try whether it reaches another one.
pub const RPC_CHECK: &str = "ReachabilityProtocol.rpc_check";

/// Peers that are asked, and how long each may take.
const ASKED: usize = 5;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is tried to reach a peer that asks.
const PROBING: Duration = Duration::from_secs(5);
/// Peers that are tried at a time.
const PROBES: usize = 8;
/// Relays to have slots at.
const SLOTS: usize = 2;
/// How long the first slot may take, and the time from one attempt at a relay, or call to it, to the next.
const FIRST_SLOT: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(10);

/// What is known, or to be found out, about whether others reach a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// Others are asked. Who listens on loopback or in a private network alone is taken for reachable there.
    #[default]
    Ask,
    /// They do.
    Direct,
    /// They do not: slots at relays are needed.
    Relayed,
}

/// How others reach a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Directly; `said` by that many peers, none where nobody was asked or could say.
    Direct {
        /// Peers that reached it.
        said: usize,
    },
    /// Through these relays.
    Relayed(Vec<PeerId>),
    /// Not at all: `blocked` are the ports at which nobody answered to others, and no relay has room.
    Unreachable,
}

/// How others reach a member, and what it listens at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachability {
    /// The way.
    pub way: Way,
    /// The ports at which others get no answer, e.g. "TCP 31401"; none where they do.
    pub blocked: Vec<String>,
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.blocked.join(", ");
        match &self.way {
            Way::Direct { said: 0 } => f.write_str("direct, as far as is known: nobody was asked, or nobody could say"),
            Way::Direct { said } => write!(f, "direct: {said} of the peers that were asked got through"),
            Way::Relayed(relays) => {
                let relays: Vec<String> = relays.iter().map(ToString::to_string).collect();
                write!(f, "relayed by {}: from outside nobody gets through to port {ports}", relays.join(", "))
            }
            Way::Unreachable => {
                write!(f, "unreachable: from outside nobody gets through to port {ports}, and no relay gives a slot")
            }
        }
    }
}

/// A member's part in all this. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) relayed: bool,
    said: usize,
    slots: watch::Receiver<Vec<PeerId>>,
    holding: Option<AbortHandle>,
    _checks: Service,
}

impl Reached {
    /// Finds out how others reach `host`, and does what that takes. `listen` is where it was told to listen.
    pub(super) async fn find_out(host: &Host, listen: &[Multiaddr], reach: Reach) -> Result<Self, PortError> {
        let helps = Arc::new(AtomicBool::new(false));
        let checks = serve_checks(host, helps.clone()).await?;
        let answers = match reach {
            Reach::Ask if needs_asking(listen) && !host.initial_peers().is_empty() => ask(host).await,
            _ => Vec::new(),
        };
        let said = answers.iter().filter(|reached| **reached).count();
        let relayed = reach == Reach::Relayed || 2 * said < answers.len();
        let (sender, slots) = watch::channel(Vec::new());
        let mut reached = Self { relayed, said, slots, holding: None, _checks: checks };
        if relayed {
            reached.holding = Some(tokio::spawn(hold(host.clone(), sender)).abort_handle());
            let first = reached.slots.wait_for(|slots| !slots.is_empty());
            drop(timeout(FIRST_SLOT, first).await); // without one it stands so in the outcome
        } else {
            helps.store(true, Relaxed);
            host.go_public().await;
        }
        Ok(reached)
    }

    pub(super) fn outcome(&self, host: &Host) -> Reachability {
        let slots = self.slots.borrow().clone();
        let way = match (self.relayed, slots.is_empty()) {
            (false, _) => Way::Direct { said: self.said },
            (true, false) => Way::Relayed(slots),
            (true, true) => Way::Unreachable,
        };
        let blocked = if self.relayed { ports(&host.listen_addresses()) } else { Vec::new() };
        Reachability { way, blocked }
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(holding) = &self.holding {
            holding.abort();
        }
    }
}

/// Whether addresses to listen on promise that others reach them from anywhere.
fn needs_asking(listen: &[Multiaddr]) -> bool {
    let private = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    listen.iter().any(|address| !ip(address).is_some_and(private))
}

/// The ports of addresses, each once.
fn ports(listen: &[Multiaddr]) -> Vec<String> {
    let mut ports: Vec<String> = listen
        .iter()
        .filter(|address| !is_circuit(address))
        .filter_map(|address| {
            let kind = if address.to_string().contains("/udp/") { "UDP" } else { "TCP" };
            Some(format!("{kind} {}", port(address)?))
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// What the initial peers say, those that can: whether they reach this host.
async fn ask(host: &Host) -> Vec<bool> {
    let (rpc, own) = (Rpc::new(host.clone(), RpcLimits::default()), host.peer_id());
    let rpc = &rpc;
    let mut calls: FuturesUnordered<_> = host
        .initial_peers()
        .iter()
        .take(ASKED)
        .map(|peer| async move { (*peer, rpc.unary(*peer, RPC_CHECK, request(own), PATIENCE).await) })
        .collect();
    let mut answers = Vec::new();
    while let Some((peer, reply)) = calls.next().await {
        match reply.and_then(|reply| Ok(proto::decode::<PingResponse>(reply)?)) {
            Ok(reply) => {
                tracing::debug!(%peer, reached = reply.available, "a peer tried to reach this host");
                answers.push(reply.available);
            }
            Err(error) => tracing::debug!(%peer, %error, "a peer cannot say whether it reaches this host"),
        }
    }
    answers
}

/// Answers those who ask to be tried out. `helps`: whether this host can say anything about others, being reached itself.
async fn serve_checks(host: &Host, helps: Arc<AtomicBool>) -> Result<Service, PortError> {
    let limits = ServeLimits { request: 1024, calls: PROBES, calls_of_peer: 1, ..ServeLimits::default() };
    let prober = host.clone();
    serve_unary(host, RPC_CHECK, limits, move |peer, asked| {
        let (host, helps) = (prober.clone(), helps.clone());
        Box::pin(async move {
            let available = match asked_for(asked)? {
                own if own == host.peer_id() => true,
                other if other != peer => {
                    return Err("ValueError('a peer is tried at its own request only')".to_owned());
                }
                _ if !helps.load(Relaxed) => {
                    return Err("RuntimeError('this peer is not reached directly itself')".to_owned());
                }
                _ => matches!(timeout(PROBING, try_out(&host, peer)).await, Ok(Ok(true))),
            };
            Ok(proto::encode(&PingResponse { peer: None, dht_time: 0.0, available }))
        })
    })
    .await
}

fn asked_for(request: Bytes) -> Result<PeerId, String> {
    let request: PingRequest = proto::decode(request).map_err(|error| format!("DecodeError('{error}')"))?;
    let id = request.peer.map(|peer| peer.node_id).unwrap_or_default();
    PeerId::from_bytes(&id).map_err(|error| format!("ValueError('no peer id: {error}')"))
}

fn request(peer: PeerId) -> Bytes {
    let peer = Some(NodeInfo { node_id: peer.to_bytes().into() });
    proto::encode(&PingRequest { peer, validate: false })
}

/// Whether a stranger, with no connection yet, gets through to `peer`.
async fn try_out(host: &Host, peer: PeerId) -> Result<bool, PortError> {
    let candidates = host.candidates(peer).await?;
    let probe = host.probe(PROBING).await?;
    for address in candidates {
        probe.add_address(peer, address).await;
    }
    let reply = Rpc::new(probe, RpcLimits::default()).unary(peer, RPC_CHECK, request(peer), PROBING).await?;
    Ok(proto::decode::<PingResponse>(reply)?.available)
}

/// When each peer was last tried.
#[derive(Debug, Default)]
struct Attempts(HashMap<PeerId, Instant>);

impl Attempts {
    /// Whether `peer` may be tried at `now`: the last attempt was long enough ago. This is one, then.
    fn begin(&mut self, peer: PeerId, now: Instant) -> bool {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        match self.0.entry(peer) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(now);
                true
            }
        }
    }
}

/// Keeps slots at relays for ever, and tells at which.
async fn hold(host: Host, slots: watch::Sender<Vec<PeerId>>) {
    let (mut reserving, mut calling) = (Attempts::default(), Attempts::default());
    let mut changes = host.changes();
    loop {
        let held = host.reserved();
        slots.send_if_modified(|slots| {
            let changed = *slots != held;
            slots.clone_from(&held);
            changed
        });
        if held.len() < SLOTS {
            let mut free: Vec<PeerId> = host.relays().into_iter().filter(|it| !held.contains(it)).collect();
            free.sort_by_key(|relay| !host.initial_peers().contains(relay));
            if let Some(relay) = free.into_iter().find(|relay| reserving.begin(*relay, Instant::now())) {
                match host.reserve(relay).await {
                    Ok(()) => tracing::info!(%relay, "others reach this host through a relay"),
                    Err(error) => tracing::debug!(%relay, %error, "a relay gives no slot"),
                }
                continue;
            }
        }
        if held.len() < SLOTS {
            // Whoever may relay is to be connected; a connection that is there is left as it is.
            for peer in host.initial_peers().iter().take(ASKED) {
                if !calling.begin(*peer, Instant::now()) {
                    continue;
                }
                if let Err(error) = host.connect(*peer).await {
                    tracing::debug!(%peer, %error, "an initial peer that may relay does not answer");
                }
            }
        }
        if let Ok(false) = timeout(AGAIN, changes.next()).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn who_listens_for_all_the_world_asks() {
        for (listen, asks) in [
            (&["/ip4/127.0.0.1/tcp/1"][..], false),
            (&["/ip4/192.168.1.2/tcp/1", "/ip6/::1/tcp/1", "/ip6/fd00::1/tcp/1"], false),
            (&["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1"], true),
            (&["/ip6/::/tcp/1"], true),
            (&["/ip4/203.0.113.5/tcp/1"], true),
        ] {
            assert_eq!(needs_asking(&all(listen)), asks, "{listen:?}");
        }
    }

    #[test]
    fn a_relay_is_tried_once_in_a_while_however_often_things_change() {
        let (mut attempts, begun) = (Attempts::default(), Instant::now());
        let (relay, other) = (PeerId::random(), PeerId::random());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let tried: Vec<u64> = (0..30).filter(|seconds| attempts.begin(relay, at(*seconds))).collect();
        assert_eq!(tried, [0, 10, 20]);
        assert!(attempts.begin(other, at(29)) && !attempts.begin(relay, at(29)));
    }

    #[test]
    fn a_blocked_port_is_named() {
        let listen = all(&["/ip4/10.0.0.1/tcp/31401", "/ip4/127.0.0.1/tcp/31401", "/ip4/10.0.0.1/udp/31402/quic-v1"]);
        let reach = Reachability { way: Way::Unreachable, blocked: ports(&listen) };
        assert_eq!(
            reach.to_string(),
            "unreachable: from outside nobody gets through to port TCP 31401, UDP 31402, and no relay gives a slot"
        );
    }
}
