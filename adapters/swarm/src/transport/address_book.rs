//! Where peers were last said to live; bounded, newest knowledge first. What the owner of the host has said stays,
//! whatever other peers say.

use std::collections::{HashMap, VecDeque};

use libp2p::{Multiaddr, PeerId, core::multiaddr::Protocol};

const MAX_PEERS: usize = 4096;
const MAX_ADDRESSES: usize = 16;

/// Addresses by peer, without a closing `/p2p/` of the peer itself.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    addresses: HashMap<PeerId, VecDeque<Multiaddr>>,
    /// Peers by when they came in, for forgetting the oldest.
    order: VecDeque<PeerId>,
    /// Addresses from the owner of the host, which nobody else can push out.
    given: HashMap<PeerId, Vec<Multiaddr>>,
}

impl AddressBook {
    /// Notes an address that another peer named. One that leads to somebody else (`/p2p/` of another peer at its end) is
    /// left out.
    pub(super) fn add(&mut self, peer: PeerId, address: Multiaddr) {
        let Some(address) = bare(peer, address) else { return };
        if !self.addresses.contains_key(&peer) {
            if self.order.len() >= MAX_PEERS
                && let Some(oldest) = self.order.pop_front()
            {
                self.addresses.remove(&oldest);
            }
            self.order.push_back(peer);
        }
        let known = self.addresses.entry(peer).or_default();
        known.retain(|other| *other != address);
        known.push_front(address);
        known.truncate(MAX_ADDRESSES);
    }

    /// Keeps an address for good, as far as there is room; beyond that it is one among others.
    pub(super) fn give(&mut self, peer: PeerId, address: Multiaddr) {
        let Some(address) = bare(peer, address) else { return };
        let room = self.given.contains_key(&peer) || self.given.len() < MAX_PEERS;
        match self.given.get(&peer) {
            Some(given) if given.contains(&address) => {}
            given if room && given.is_none_or(|given| given.len() < MAX_ADDRESSES) => {
                self.given.entry(peer).or_default().push(address);
            }
            _ => self.add(peer, address),
        }
    }

    /// What is known of `peer`: what was given, then the rest, newest first; each with a closing `/p2p/` of the peer, as
    /// `identify` remembers them too, so that no address is dialled twice.
    pub(super) fn of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.bare(peer).into_iter().map(|address| address.with(Protocol::P2p(*peer))).collect()
    }

    /// As [`of`](Self::of), without the closing `/p2p/`, as peers tell each other.
    pub(super) fn bare(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let given = self.given.get(peer).map_or(&[][..], Vec::as_slice);
        let named = self.addresses.get(peer).into_iter().flatten().filter(|address| !given.contains(address));
        given.iter().chain(named).cloned().collect()
    }
}

/// An address of `peer` without its own `/p2p/`; `None` where it leads to nobody or to somebody else.
fn bare(peer: PeerId, mut address: Multiaddr) -> Option<Multiaddr> {
    match address.iter().last()? {
        Protocol::P2p(named) if named == peer => {
            address.pop();
        }
        Protocol::P2p(_) => return None,
        _ => {}
    }
    Some(address)
}

/// The peer an address ends in.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_is_bounded_and_newest_first() {
        let mut book = AddressBook::default();
        let peer = PeerId::random();
        for port in 0..100u16 {
            book.add(peer, format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        }
        assert_eq!(book.of(&peer).len(), MAX_ADDRESSES);
        assert_eq!(book.of(&peer)[0].to_string(), format!("/ip4/127.0.0.1/tcp/99/p2p/{peer}"));
        for _ in 0..MAX_PEERS {
            book.add(PeerId::random(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
        }
        assert_eq!(book.addresses.len(), MAX_PEERS);
        assert!(book.of(&peer).is_empty());
    }

    #[test]
    fn what_the_owner_gave_is_never_pushed_out() {
        let mut book = AddressBook::default();
        let (peer, given): (PeerId, Multiaddr) = (PeerId::random(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
        book.give(peer, given.clone());
        book.give(peer, given.clone());
        for port in 0..100u16 {
            book.add(peer, format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap());
        }
        for _ in 0..MAX_PEERS {
            book.add(PeerId::random(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
        }
        assert_eq!(book.of(&peer), [given.with(Protocol::P2p(peer))]);
        for port in 0..3 * MAX_ADDRESSES {
            book.give(peer, format!("/ip4/127.0.0.2/tcp/{port}").parse().unwrap());
        }
        assert_eq!(book.of(&peer).len(), 2 * MAX_ADDRESSES);
    }

    #[test]
    fn an_address_of_somebody_else_is_left_out() {
        let mut book = AddressBook::default();
        let (peer, other) = (PeerId::random(), PeerId::random());
        book.add(peer, format!("/ip4/127.0.0.1/tcp/1/p2p/{other}").parse().unwrap());
        assert!(book.of(&peer).is_empty());
        let circuit = format!("/ip4/127.0.0.1/tcp/1/p2p/{other}/p2p-circuit");
        for known in [circuit.clone(), format!("{circuit}/p2p/{peer}")] {
            book.add(peer, known.parse().unwrap());
        }
        assert_eq!(book.of(&peer), [format!("{circuit}/p2p/{peer}").parse().unwrap()]);
    }
}
