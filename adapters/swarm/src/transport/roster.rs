//! What is known of the peers that are connected: where their connections come from, and what they say of themselves.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{ConnectedPoint, multiaddr::Protocol},
    kad::KBucketKey,
    relay::HOP_PROTOCOL_NAME,
    swarm::ConnectionId,
};
use tokio::sync::oneshot;

use super::find_node;

/// Addresses of a peer under which somebody else may try to reach it.
const MAX_CANDIDATES: usize = 8;
/// Those that may wait for a peer to introduce itself.
const MAX_WAITING: usize = 64;

/// Connected peers.
#[derive(Default)]
pub(super) struct Roster {
    peers: HashMap<PeerId, Entry>,
    waiting: Vec<(PeerId, oneshot::Sender<Vec<Multiaddr>>)>,
}

struct Entry {
    /// Its place in Kademlia, a hash that each question is compared with.
    place: KBucketKey<PeerId>,
    /// The other ends of direct connections, and whether this host dialled.
    ends: Vec<(ConnectionId, Multiaddr, bool)>,
    /// Where it says that it listens; `None` as long as it has said nothing.
    listens: Option<Vec<Multiaddr>>,
    guides: bool,
    relays: bool,
}

impl Entry {
    fn new(peer: PeerId) -> Self {
        Self { place: peer.into(), ends: Vec::new(), listens: None, guides: false, relays: false }
    }
}

impl Roster {
    pub(super) fn connected(&mut self, peer: PeerId, id: ConnectionId, point: &ConnectedPoint) {
        let entry = self.peers.entry(peer).or_insert_with(|| Entry::new(peer));
        if !point.is_relayed() {
            entry.ends.push((id, point.get_remote_address().clone(), point.is_dialer()));
        }
    }

    /// A connection ended; `last` of its peer.
    pub(super) fn disconnected(&mut self, peer: PeerId, id: ConnectionId, last: bool) {
        if last {
            self.peers.remove(&peer);
            self.waiting.retain(|(waiting, _)| *waiting != peer);
        } else if let Some(entry) = self.peers.get_mut(&peer) {
            entry.ends.retain(|(other, ..)| *other != id);
        }
    }

    /// A peer has said where it listens and what it speaks.
    pub(super) fn introduced(&mut self, peer: PeerId, listens: &[Multiaddr], protocols: &[StreamProtocol]) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        entry.guides = protocols.iter().any(|protocol| protocol.as_ref() == find_node::PROTOCOL);
        entry.relays = protocols.contains(&HOP_PROTOCOL_NAME);
        entry.listens = Some(listens.to_vec());
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(waiting, _)| *waiting == peer);
        self.waiting = waiting;
        let ready: Vec<(PeerId, oneshot::Sender<_>)> = ready;
        for (_, reply) in ready {
            self.candidates(peer, reply);
        }
    }

    /// Peers that tell others where peers live, by their places.
    pub(super) fn guides(&self) -> impl Iterator<Item = &KBucketKey<PeerId>> {
        self.peers.values().filter(|entry| entry.guides).map(|entry| &entry.place)
    }

    /// Peers that relay and are connected directly.
    pub(super) fn relays(&self) -> Vec<PeerId> {
        let relay = |entry: &Entry| entry.relays && !entry.ends.is_empty();
        self.peers.iter().filter(|(_, entry)| relay(entry)).map(|(peer, _)| *peer).collect()
    }

    /// The address by which this host reached a peer.
    pub(super) fn way(&self, peer: &PeerId) -> Option<&Multiaddr> {
        self.peers.get(peer)?.ends.iter().find(|(.., dialled)| *dialled).map(|(_, address, _)| address)
    }

    /// Answers, once the peer has introduced itself, with the addresses under which it may be reached. They all belong to
    /// machines from which it is connected: nobody is sent to call at somebody else's. Dropped where it is not connected.
    pub(super) fn candidates(&mut self, peer: PeerId, reply: oneshot::Sender<Vec<Multiaddr>>) {
        let Some(entry) = self.peers.get(&peer) else { return };
        match &entry.listens {
            Some(listens) => {
                let ends: Vec<&Multiaddr> = entry.ends.iter().map(|(_, end, _)| end).collect();
                let _ = reply.send(candidates(&ends, listens)); // who asked may have gone
            }
            None => {
                self.waiting.retain(|(_, waiting)| !waiting.is_closed());
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push((peer, reply));
                }
            }
        }
    }
}

/// Where a peer that is connected from `ends` and says that it listens at `listens` may be reached: the ports it listens at
/// on the machines it is seen at, and the ends themselves, which may be what a NAT made of such a port.
fn candidates(ends: &[&Multiaddr], listens: &[Multiaddr]) -> Vec<Multiaddr> {
    let said = listens.iter().filter(|address| !is_circuit(address));
    let moved = said.flat_map(|address| ends.iter().filter_map(|end| at(address, ip(end)?)));
    let mut seen = HashSet::new();
    let bare = |end: &&Multiaddr| at(end, ip(end)?);
    moved.chain(ends.iter().filter_map(bare)).filter(|it| seen.insert(it.clone())).take(MAX_CANDIDATES).collect()
}

/// Addresses of this host that others may reach, from where a peer sees it and where it listens.
pub(super) fn seen_at(observed: &Multiaddr, listens: &[Multiaddr]) -> Vec<Multiaddr> {
    candidates(&[observed], listens)
}

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// An address with the machine's part replaced, without a closing `/p2p/`; `None` where the families differ.
fn at(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let first = match (parts.next()?, ip) {
        (Protocol::Ip4(_), IpAddr::V4(ip)) => Protocol::Ip4(ip),
        (Protocol::Ip6(_), IpAddr::V6(ip)) => Protocol::Ip6(ip),
        _ => return None,
    };
    let rest = parts.take_while(|part| !matches!(part, Protocol::P2p(_)));
    let moved: Multiaddr = std::iter::once(first).chain(rest).collect();
    (port(&moved)? != 0).then_some(moved)
}

/// The machine an address names.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The port an address names.
pub(crate) fn port(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_peer_is_looked_for_where_it_is_seen_and_nowhere_else() {
        let relay = PeerId::random();
        let ends = all(&["/ip4/203.0.113.7/tcp/61000"]);
        let circuit = format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit");
        let listens = all(&[
            "/ip4/10.0.0.2/tcp/31401",
            "/ip4/127.0.0.1/tcp/31401",
            "/ip4/198.51.100.1/tcp/25",
            "/ip6/::1/tcp/31401",
            "/dns/victim.example/tcp/80",
            "/ip4/10.0.0.2/udp/31401/quic-v1",
            circuit.as_str(),
        ]);
        let found = candidates(&ends.iter().collect::<Vec<_>>(), &listens);
        let expected = [
            "/ip4/203.0.113.7/tcp/31401",
            "/ip4/203.0.113.7/tcp/25",
            "/ip4/203.0.113.7/udp/31401/quic-v1",
            "/ip4/203.0.113.7/tcp/61000",
        ];
        assert_eq!(found, all(&expected));
        assert!(candidates(&[], &listens).is_empty());
    }

    #[test]
    fn candidates_are_bounded() {
        let ends = all(&["/ip4/203.0.113.7/tcp/61000"]);
        let listens: Vec<Multiaddr> = (1..100).map(|i| format!("/ip4/10.0.0.2/tcp/{i}").parse().unwrap()).collect();
        assert_eq!(candidates(&ends.iter().collect::<Vec<_>>(), &listens).len(), MAX_CANDIDATES);
    }

    #[test]
    fn who_asks_hears_of_a_peer_once_it_has_introduced_itself() {
        let (mut roster, peer, id) = (Roster::default(), PeerId::random(), ConnectionId::new_unchecked(1));
        let (reply, mut never) = oneshot::channel();
        roster.candidates(peer, reply);
        assert!(never.try_recv().is_err(), "it is not connected");
        let point = ConnectedPoint::Listener {
            local_addr: "/ip4/203.0.113.1/tcp/1".parse().unwrap(),
            send_back_addr: "/ip4/203.0.113.7/tcp/61000".parse().unwrap(),
        };
        roster.connected(peer, id, &point);
        let (reply, mut answer) = oneshot::channel();
        roster.candidates(peer, reply);
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        roster.introduced(peer, &all(&["/ip4/10.0.0.2/tcp/31401"]), &[HOP_PROTOCOL_NAME]);
        assert_eq!(answer.try_recv().unwrap(), all(&["/ip4/203.0.113.7/tcp/31401", "/ip4/203.0.113.7/tcp/61000"]));
        assert_eq!((roster.relays(), roster.guides().count(), roster.way(&peer)), (vec![peer], 0, None));
        roster.disconnected(peer, id, true);
        assert!(roster.relays().is_empty());
    }
}
