//! Which node to ask next: the iterative search for many keys at once (wire protocol §3.7), without any I/O.
//!
//! The search ends when the nearest nodes of every key have been asked. Peers that name endless or invented neighbours
//! are held by limits on the nodes one peer may introduce, on all nodes, and on all calls.

use std::collections::{BTreeSet, HashMap, HashSet};

use libp2p::PeerId;

use crate::wire::key::DhtId;

/// Nearest nodes of each key that are asked, as hivemind does it.
const BEAM: usize = 20;

/// Bounds of one search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Nearest nodes of each key that are asked.
    pub(super) beam: usize,
    /// Keys in one call.
    pub(super) keys_per_call: usize,
    /// Nodes that are remembered.
    pub(super) nodes: usize,
    /// Nodes that one peer may introduce.
    pub(super) introductions: usize,
    /// Calls in all.
    pub(super) calls: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { beam: BEAM, keys_per_call: 16, nodes: 2048, introductions: 160, calls: 512 }
    }
}

/// One `rpc_find` to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) peer: PeerId,
    /// Indices of the keys to ask for.
    pub(super) keys: Vec<usize>,
    node: usize,
}

struct Node {
    peer: PeerId,
    id: DhtId,
    introduced: usize,
}

struct Key {
    id: DhtId,
    asked: HashSet<usize>,
    /// Calls under way.
    active: usize,
    /// Nodes by distance, without those that failed; the first `beam` of them count.
    near: BTreeSet<(DhtId, usize)>,
}

impl Key {
    /// The nearest node that has not been asked yet, unless enough nearer ones have been.
    fn candidate(&self, beam: usize) -> Option<(DhtId, usize)> {
        self.near.iter().take(beam).find(|(_, node)| !self.asked.contains(node)).copied()
    }
}

/// The state of one search.
pub(super) struct Search {
    bounds: Bounds,
    keys: Vec<Key>,
    nodes: Vec<Node>,
    known: HashMap<PeerId, usize>,
    calls: usize,
}

impl Search {
    /// A search for `keys` that begins at `seeds`.
    pub(super) fn new(bounds: Bounds, keys: &[DhtId], seeds: impl IntoIterator<Item = (PeerId, DhtId)>) -> Self {
        let key = |id: &DhtId| Key { id: *id, asked: HashSet::new(), active: 0, near: BTreeSet::new() };
        let keys = keys.iter().map(key).collect();
        let mut search = Self { bounds, keys, nodes: Vec::new(), known: HashMap::new(), calls: 0 };
        for (peer, id) in seeds {
            search.add(peer, id);
        }
        search
    }

    /// The next call, `None` where there is none before a call under way is answered, or ever.
    pub(super) fn next(&mut self) -> Option<Call> {
        if self.calls >= self.bounds.calls {
            return None;
        }
        let beam = self.bounds.beam;
        let open = |key: &Key| key.candidate(beam).map(|(distance, node)| (key.active, distance, node));
        let (_, _, node) = self.keys.iter().filter_map(open).min()?;
        let place = self.nodes[node].id;
        let mut keys: Vec<(DhtId, usize)> = (0..self.keys.len())
            .filter(|k| !self.keys[*k].asked.contains(&node) && self.keys[*k].candidate(beam).is_some())
            .map(|k| (self.keys[k].id.distance(&place), k))
            .collect();
        // Keys that need this very node first, then those nearest to it.
        keys.sort_by_key(|(distance, k)| (self.keys[*k].candidate(beam).map(|c| c.1) != Some(node), *distance));
        keys.truncate(self.bounds.keys_per_call);
        let keys: Vec<usize> = keys.into_iter().map(|(_, k)| k).collect();
        for k in &keys {
            self.keys[*k].asked.insert(node);
            self.keys[*k].active += 1;
        }
        self.calls += 1;
        Some(Call { peer: self.nodes[node].peer, keys, node })
    }

    /// The peer answered `call` and named these neighbours.
    pub(super) fn answered(&mut self, call: &Call, neighbours: impl IntoIterator<Item = (PeerId, DhtId)>) {
        self.finish(call);
        for (peer, id) in neighbours {
            if self.nodes[call.node].introduced >= self.bounds.introductions {
                return;
            }
            if self.add(peer, id) {
                self.nodes[call.node].introduced += 1;
            }
        }
    }

    /// The peer did not answer, or nonsense: it makes room for others.
    pub(super) fn failed(&mut self, call: &Call) {
        self.finish(call);
        let place = self.nodes[call.node].id;
        for key in &mut self.keys {
            key.near.remove(&(key.id.distance(&place), call.node));
        }
    }

    /// For each key the nodes nearest to it that were asked and have not failed, nearest first, as many as the beam is wide.
    pub(super) fn nearest(&self) -> Vec<Vec<PeerId>> {
        let of = |key: &Key| {
            let asked = key.near.iter().filter(|(_, node)| key.asked.contains(node));
            asked.take(self.bounds.beam).map(|(_, node)| self.nodes[*node].peer).collect()
        };
        self.keys.iter().map(of).collect()
    }

    fn finish(&mut self, call: &Call) {
        for k in &call.keys {
            self.keys[*k].active -= 1;
        }
    }

    /// Whether the node is new.
    fn add(&mut self, peer: PeerId, id: DhtId) -> bool {
        if self.nodes.len() >= self.bounds.nodes || self.known.contains_key(&peer) {
            return false;
        }
        let node = self.nodes.len();
        self.known.insert(peer, node);
        self.nodes.push(Node { peer, id, introduced: 0 });
        for key in &mut self.keys {
            key.near.insert((key.id.distance(&id), node));
            if key.near.len() > 4 * self.bounds.beam {
                key.near.pop_last();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u8) -> DhtId {
        let mut id = [0; 20];
        id[0] = first;
        DhtId(id)
    }

    fn bounds() -> Bounds {
        Bounds { beam: 2, keys_per_call: 2, nodes: 64, introductions: 3, calls: 100 }
    }

    #[test]
    fn nearer_nodes_are_asked_until_the_beam_is_exhausted() {
        let (far, near, nearest) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut search = Search::new(bounds(), &[id(0)], [(far, id(128))]);
        let first = search.next().unwrap();
        assert_eq!((first.peer, first.keys.as_slice()), (far, &[0][..]));
        assert_eq!(search.next(), None, "nothing else is known yet");
        search.answered(&first, [(near, id(2)), (nearest, id(1)), (PeerId::random(), id(64))]);
        let (second, third) = (search.next().unwrap(), search.next().unwrap());
        assert_eq!((second.peer, third.peer), (nearest, near));
        assert_eq!(search.next(), None, "the third nearest is outside the beam");
    }

    #[test]
    fn a_failed_node_makes_room_for_the_next() {
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        let seeds = (0u8..3).map(|i| (peers[usize::from(i)], id(i)));
        let mut search = Search::new(bounds(), &[id(0)], seeds);
        let (first, second) = (search.next().unwrap(), search.next().unwrap());
        assert_eq!(search.next(), None);
        search.failed(&first);
        search.answered(&second, []);
        assert_eq!(search.next().unwrap().peer, peers[2]);
    }

    #[test]
    fn a_call_carries_several_keys_and_each_is_asked_once() {
        let peer = PeerId::random();
        let mut search = Search::new(bounds(), &[id(0), id(1), id(2)], [(peer, id(9))]);
        let (first, second) = (search.next().unwrap(), search.next().unwrap());
        let mut keys = [first.keys.clone(), second.keys.clone()].concat();
        keys.sort_unstable();
        assert_eq!((first.keys.len(), keys), (2, vec![0, 1, 2]));
        assert_eq!(search.next(), None);
    }

    #[test]
    fn endless_neighbours_are_cut_off() {
        let mut search = Search::new(Bounds { calls: 40, ..bounds() }, &[id(0)], [(PeerId::random(), id(255))]);
        let mut calls = 0;
        while let Some(call) = search.next() {
            calls += 1;
            search.answered(&call, (0..1000).map(|_| (PeerId::random(), id(255 - calls))));
        }
        assert!(calls <= 40 && search.nodes.len() <= 64, "{calls} calls, {} nodes", search.nodes.len());
    }
}
