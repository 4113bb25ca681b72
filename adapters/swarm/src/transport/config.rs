//! What a host is told when it starts.

use std::{path::PathBuf, str::FromStr as _, time::Duration};

use corolla_domain::ports::PortError;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::access::Access;

/// Settings of a [`Host`](super::Host).
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The file of the private key (libp2p's protobuf form), written when it does not exist. `None`: a fresh Ed25519
    /// key that lives as long as the host.
    pub identity: Option<PathBuf>,
    /// Where to listen; empty: nowhere.
    pub listen: Vec<Multiaddr>,
    /// Peers that know others, each with `/p2p/` and its id.
    pub initial_peers: Vec<Multiaddr>,
    /// With whom to have to do at all.
    pub access: Access,
    /// Whether to tell others where the peers live that this host knows (`/ipfs/kad/1.0.0`), as members of a swarm that
    /// others enter through do.
    pub guides: bool,
    /// How long `connect` may take, finding the address included.
    pub dial_timeout: Duration,
    /// How long the negotiation of one stream may take.
    pub open_timeout: Duration,
    /// How long a connection without streams is kept.
    pub idle_timeout: Duration,
    /// Connections at most, of either direction.
    pub max_connections: u32,
    /// Streams at most on one connection.
    pub max_streams: usize,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            identity: None,
            listen: Vec::new(),
            initial_peers: Vec::new(),
            access: Access::default(),
            guides: false,
            dial_timeout: Duration::from_secs(15),
            open_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(6 * 3600),
            max_connections: 512,
            max_streams: 4096,
        }
    }
}

/// Reads addresses to listen on.
///
/// # Errors
/// `InvalidInput` that repeats what is no address.
pub(crate) fn listen_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, PortError> {
    texts.iter().map(|text| address(text, "address to listen on")).collect()
}

/// Reads initial peers, and where they are.
///
/// # Errors
/// `InvalidInput` that repeats what is no address, or names no peer.
pub(crate) fn initial_peers(texts: &[String]) -> Result<Vec<(PeerId, Multiaddr)>, PortError> {
    let read = |text: &String| {
        let address = address(text, "initial peer")?;
        match address.iter().last() {
            Some(Protocol::P2p(peer)) => Ok((peer, address)),
            _ => Err(PortError::invalid(format!("initial peer {text:?} must end in /p2p/ and a peer id"))),
        }
    };
    texts.iter().map(read).collect()
}

fn address(text: &str, what: &str) -> Result<Multiaddr, PortError> {
    Multiaddr::from_str(text).map_err(|error| PortError::invalid(format!("{what} {text:?}: {error}")))
}
