//! The swarm itself: transports, security, muxers and the protocols every peer speaks.

use std::{convert::Infallible, num::NonZeroU8, sync::Arc, time::Duration};

use corolla_domain::ports::PortError;
use futures_util::TryFutureExt as _;
use libp2p::{
    Swarm, SwarmBuilder, Transport as _,
    allow_block_list::{self, AllowedPeers},
    autonat, connection_limits,
    core::upgrade::Version,
    dcutr, dns, identify,
    identity::Keypair,
    noise, ping,
    pnet::{PnetConfig, PnetError},
    quic, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, tls, yamux,
};

use super::{
    access::SwarmSecret,
    conduct::Conduct,
    config::HostConfig,
    shim::Shim,
    streams::{self, Acceptors},
};

/// Inbound streams that may be negotiated at once on one connection, by a host that serves others and by one that is only
/// reached by those it has called. Each may hold its window of 256 KiB.
const MAX_NEGOTIATING: usize = 1024;
const MAX_NEGOTIATING_CLIENT: usize = 64;
/// Connections to one peer: a direct one, a relayed one, and what simultaneous dials leave.
const MAX_PER_PEER: u32 = 4;

/// The other end was not greeted. libp2p's `Either` shows of an error only its cause: this one's is the error itself.
#[derive(Debug, thiserror::Error)]
#[error("the other end has another swarm secret, or none")]
struct Unmet(#[source] PnetError);

/// All protocols of a host.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    members: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    pub(super) streams: streams::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay: relay::client::Behaviour,
    pub(super) hop: Toggle<relay::Behaviour>,
    dcutr: dcutr::Behaviour,
    autonat: Toggle<autonat::Behaviour>,
}

/// A swarm that neither listens nor dials yet. Must run inside a tokio runtime.
pub(super) fn build(
    key: &Keypair,
    config: &HostConfig,
    acceptors: Arc<Acceptors>,
    conduct: Conduct,
) -> Result<Swarm<Behaviour>, PortError> {
    let max_streams = config.max_streams;
    let negotiating = if config.listen.is_empty() { MAX_NEGOTIATING_CLIENT } else { MAX_NEGOTIATING };
    let muxer = move || {
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(max_streams);
        Shim(muxer)
    };
    let quic = |key: &Keypair| {
        let mut config = quic::Config::new(key);
        config.max_concurrent_stream_limit = u32::try_from(max_streams).unwrap_or(u32::MAX);
        quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, Shim(muxer)))
    };
    let open = || {
        SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), (noise::Config::new, tls::Config::new), muxer)
            .map_err(|e| unready(&e))?
            .with_other_transport(quic)
            .map_err(impossible)
    };
    // Whoever lacks the secret gets no further than a nonce. All members are of ours: one handshake is enough.
    let private = |secret: &SwarmSecret| {
        let pnet = PnetConfig::new(secret.key());
        let noise = noise::Config::new(key).map_err(|e| unready(&e))?;
        SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_other_transport(move |_| {
                tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
                    .and_then(move |socket, _| pnet.handshake(socket).map_err(Unmet))
                    .upgrade(Version::V1)
                    .authenticate(noise)
                    .multiplex(muxer())
            })
            .map_err(impossible)
    };
    // A macro, since each way to look names up makes a type of its own.
    macro_rules! relayed {
        ($named:expr) => {
            $named
                .with_relay_client((noise::Config::new, tls::Config::new), muxer)
                .map_err(|e| unready(&e))?
                .with_behaviour(|key, relay| behaviour(key, relay, config, (acceptors, conduct)))
                .map_err(impossible)?
                .with_swarm_config(|swarm| {
                    swarm
                        .with_idle_connection_timeout(config.idle_timeout)
                        .with_max_negotiating_inbound_streams(negotiating)
                        .with_dial_concurrency_factor(NonZeroU8::MIN.saturating_add(7))
                })
                .with_connection_timeout(config.dial_timeout)
                .build()
        };
    }
    macro_rules! named {
        ($direct:expr) => {
            match $direct.with_dns() {
                Ok(named) => relayed!(named),
                Err(error) => {
                    tracing::warn!(%error, "no name server is known: names are looked up in the hosts file only");
                    relayed!($direct.with_dns_config(dns::ResolverConfig::default(), dns::ResolverOpts::default()))
                }
            }
        };
    }
    Ok(match &config.access.secret {
        None => named!(open()?),
        Some(secret) => named!(private(secret)?),
    })
}

fn behaviour(
    key: &Keypair,
    relay: relay::client::Behaviour,
    config: &HostConfig,
    (acceptors, conduct): (Arc<Acceptors>, Conduct),
) -> Behaviour {
    let peer = key.public().to_peer_id();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established(Some(config.max_connections))
        .with_max_pending_incoming(Some(64))
        .with_max_pending_outgoing(Some(config.max_connections))
        .with_max_established_per_peer(Some(MAX_PER_PEER));
    let identify = identify::Config::new(String::new(), key.public())
        .with_agent_version(concat!("corolla/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true);
    let listens = !config.listen.is_empty();
    // All who listen ask others whether they can be reached; who guides others tells them, within the library's limits.
    let asked = if config.guides { autonat::Config::default().throttle_clients_global_max } else { 0 };
    let autonat = autonat::Config { throttle_clients_global_max: asked, ..autonat::Config::default() };
    let hop = listens.then(|| {
        let mut hop = relay::Behaviour::new(peer, circuits());
        hop.set_status(Some(relay::Status::Disable)); // until it is known that others reach this host
        hop
    });
    let members = config.access.allowed.as_ref().map(|allowed| {
        let mut members = allow_block_list::Behaviour::<AllowedPeers>::default();
        for peer in allowed {
            members.allow_peer(*peer);
        }
        members
    });
    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        members: members.into(),
        streams: streams::Behaviour::new(acceptors, conduct, config.open_timeout),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new()),
        relay,
        hop: hop.into(),
        dcutr: dcutr::Behaviour::new(peer),
        autonat: listens.then(|| autonat::Behaviour::new(peer, autonat)).into(),
    }
}

/// What a relay gives, beyond the rates of the library: to a circuit as much as the daemons do (wire protocol §1.2), but to
/// few peers at a time.
fn circuits() -> relay::Config {
    relay::Config {
        max_reservations: 128,
        max_reservations_per_peer: 2,
        max_circuits: 128,
        max_circuits_per_peer: 8,
        max_circuit_duration: Duration::from_secs(30 * 60),
        max_circuit_bytes: 4 << 30,
        ..relay::Config::default()
    }
}

fn impossible(never: Infallible) -> PortError {
    match never {}
}

fn unready(error: &impl std::error::Error) -> PortError {
    PortError::internal(format!("preparing the network: {error}"))
}
