//! Which swarm, which model, and how patient.

use std::{path::PathBuf, str::FromStr, time::Duration};

use corolla_domain::{model::ModelId, ports::PortError};

use super::{
    defaults::PUBLIC_INITIAL_PEERS,
    pins::{Pin, check_pins},
};
use crate::{
    transport::{Access, Multiaddr, PeerId, initial_peers},
    wire::{inference::MAX_UNARY_FORWARD, server::check_prefix},
};

/// What a [`PetalsSwarm`](super::PetalsSwarm) is told when it starts.
#[derive(Debug, Clone)]
pub struct PetalsConfig {
    /// The name by which clients ask for the model.
    pub model: ModelId,
    /// Its blocks.
    pub blocks: usize,
    /// Numbers of its hidden state.
    pub hidden: usize,
    /// What its servers publish their blocks under.
    pub dht_prefix: String,
    /// Where the swarm is entered: addresses that end in `/p2p/` and a peer id.
    pub initial_peers: Vec<String>,
    /// The file of this client's key; `None`: a fresh one each time.
    pub identity: Option<PathBuf>,
    /// With whom to have to do at all: whom this shuts out is not used as a server, an initial peer or a relay either.
    pub access: Access,
    /// Where to listen; empty: nowhere. Only who listens can be met half-way by a server behind a NAT; otherwise its relay
    /// stays in between.
    pub listen: Vec<String>,
    /// Peer ids of the only servers to be used; empty: all.
    pub allowed_servers: Vec<String>,
    /// Peer ids of servers that are not to be used.
    pub blocked_servers: Vec<String>,
    /// Blocks that are run by one server only.
    pub pinned_servers: Vec<Pin>,
    /// Bytes of hidden states that travel in one message where there is no cache; more are streamed. 1 MiB at most.
    pub most_unary: usize,
    /// How long a server may take over one message.
    pub request_timeout: Duration,
    /// How long connecting to a server may take.
    pub connect_timeout: Duration,
    /// How often the swarm is looked at.
    pub refresh: Duration,
    /// How long the first look may take before `map` gives up waiting for it.
    pub first_look: Duration,
}

impl PetalsConfig {
    /// A client of the public swarm for a model of `blocks` blocks whose hidden state is `hidden` numbers, with the reference's periods (wire protocol §7.1).
    #[must_use]
    pub fn new(model: impl Into<ModelId>, blocks: usize, hidden: usize, dht_prefix: impl Into<String>) -> Self {
        let s = Duration::from_secs;
        Self {
            model: model.into(),
            blocks,
            hidden,
            dht_prefix: dht_prefix.into(),
            initial_peers: PUBLIC_INITIAL_PEERS.map(str::to_owned).to_vec(),
            identity: None,
            access: Access::default(),
            listen: Vec::new(),
            allowed_servers: Vec::new(),
            blocked_servers: Vec::new(),
            pinned_servers: Vec::new(),
            most_unary: MAX_UNARY_FORWARD,
            request_timeout: s(180),
            connect_timeout: s(10),
            refresh: s(60),
            first_look: s(30),
        }
    }

    /// Refuses what cannot work; the initial peers, read.
    pub(super) fn check(&self) -> Result<Vec<(PeerId, Multiaddr)>, PortError> {
        check_prefix(&self.dht_prefix)?;
        for peer in self.allowed_servers.iter().chain(&self.blocked_servers) {
            PeerId::from_str(peer).map_err(|error| PortError::invalid(format!("server {peer:?}: {error}")))?;
        }
        if self.most_unary > MAX_UNARY_FORWARD {
            let text = format!("most_unary = {} is more than {MAX_UNARY_FORWARD}, what servers take", self.most_unary);
            return Err(PortError::invalid(text));
        }
        check_pins(&self.pinned_servers)?;
        for pin in &self.pinned_servers {
            if pin.blocks.end() > self.blocks {
                let text = format!("pinned_servers has \"{pin}\", beyond the model's {} blocks", self.blocks);
                return Err(PortError::invalid(text));
            }
            if !self.admits(&pin.peer) {
                let text = format!("pinned_servers has \"{pin}\", but allowed_servers or blocked_servers shut it out");
                return Err(PortError::invalid(text));
            }
        }
        let periods = [self.request_timeout, self.connect_timeout, self.refresh, self.first_look];
        if self.blocks == 0 || self.hidden == 0 || periods.contains(&Duration::ZERO) {
            return Err(PortError::invalid("blocks, hidden and all periods of a swarm must be above 0"));
        }
        if self.initial_peers.is_empty() {
            return Err(PortError::invalid("initial_peers is empty: a swarm is entered through at least one"));
        }
        initial_peers(&self.initial_peers)
    }

    /// Whether a server may be used.
    pub(super) fn admits(&self, peer: &str) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == peer);
        let member = |peer: &str| PeerId::from_str(peer).is_ok_and(|peer| self.access.admits(&peer));
        let listed = self.allowed_servers.is_empty() || names(&self.allowed_servers);
        listed && !names(&self.blocked_servers) && (self.access.allowed.is_none() || member(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY";

    fn pin(range: &str) -> Pin {
        format!("{range}@{PEER}").parse().unwrap()
    }

    fn config() -> PetalsConfig {
        PetalsConfig::new("m", 4, 64, "m-petals")
    }

    #[test]
    fn the_defaults_can_work() {
        config().check().unwrap();
        PetalsConfig { pinned_servers: vec![pin("0:4")], ..config() }.check().unwrap();
        assert_eq!(config().check().unwrap().len(), PUBLIC_INITIAL_PEERS.len());
    }

    #[test]
    fn what_cannot_work_is_named() {
        for broken in [
            PetalsConfig { dht_prefix: "a.b".into(), ..config() },
            PetalsConfig { blocks: 0, ..config() },
            PetalsConfig { allowed_servers: vec!["somebody".into()], ..config() },
            PetalsConfig { most_unary: MAX_UNARY_FORWARD + 1, ..config() },
            PetalsConfig { pinned_servers: vec![pin("3:5")], ..config() },
            PetalsConfig { pinned_servers: vec![pin("0:2"), pin("1:3")], ..config() },
            PetalsConfig { pinned_servers: vec![pin("0:2")], blocked_servers: vec![PEER.into()], ..config() },
        ] {
            assert!(broken.check().is_err());
        }
        for address in ["nowhere", "/ip4/127.0.0.1/tcp/1"] {
            let error = PetalsConfig { initial_peers: vec![address.into()], ..config() }.check().unwrap_err();
            assert!(error.context().contains(address), "{error}");
        }
        assert!(PetalsConfig { initial_peers: vec![], ..config() }.check().is_err());
    }

    #[test]
    fn blocked_beats_allowed() {
        let named = |allowed: &[&str], blocked: &[&str]| {
            let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
            PetalsConfig { allowed_servers: own(allowed), blocked_servers: own(blocked), ..config() }.admits(PEER)
        };
        assert!(named(&[], &[]) && named(&[PEER], &[]));
        assert!(!named(&["other"], &[]) && !named(&[PEER], &[PEER]));
    }

    #[test]
    fn who_may_not_enter_is_no_server() {
        let admits = |allowed: Vec<PeerId>| {
            let access = Access { secret: None, allowed: Some(allowed) };
            PetalsConfig { access, ..config() }.admits(PEER)
        };
        assert!(admits(vec![PeerId::random(), PEER.parse().unwrap()]));
        assert!(!admits(vec![PeerId::random()]) && !admits(vec![]));
    }
}
