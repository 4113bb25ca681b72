//! Who else is in the DHT: nodes by their distance from this one, so many near it and so many at each distance further
//! away (wire protocol §3.6).

use std::collections::{HashMap, VecDeque};

use libp2p::PeerId;
use tokio::time::Instant;

use crate::wire::key::DhtId;

/// Nodes at one distance.
const BUCKET: usize = 20;
/// Distances: the bits of an id.
const DISTANCES: usize = 160;

#[derive(Debug, Clone, Copy)]
struct Node {
    peer: PeerId,
    heard: Instant,
}

/// Nodes that were heard of. A peer has one place.
#[derive(Debug)]
pub(super) struct Table {
    me: DhtId,
    /// By how many leading bits a node's id shares with ours; who was heard of last stands last.
    buckets: Vec<VecDeque<Node>>,
    peers: HashMap<PeerId, DhtId>,
}

impl Table {
    pub(super) fn new(me: DhtId) -> Self {
        Self { me, buckets: vec![VecDeque::new(); DISTANCES], peers: HashMap::new() }
    }

    /// `peer` said at `now` that its place is `id`. Where its distance is taken by others, who have proved their worth
    /// by being there, it is left out.
    pub(super) fn heard(&mut self, peer: PeerId, id: DhtId, now: Instant) {
        let Some(bucket) = self.bucket(&id) else { return };
        if self.peers.get(&peer).is_some_and(|held| *held != id) {
            self.remove(&peer);
        }
        let nodes = &mut self.buckets[bucket];
        nodes.retain(|node| node.peer != peer);
        if nodes.len() < BUCKET {
            nodes.push_back(Node { peer, heard: now });
            self.peers.insert(peer, id);
        }
    }

    /// `peer` does not answer.
    pub(super) fn remove(&mut self, peer: &PeerId) {
        if let Some(bucket) = self.peers.remove(peer).and_then(|id| self.bucket(&id)) {
            self.buckets[bucket].retain(|node| node.peer != *peer);
        }
    }

    /// The nodes nearest to `key`, at most `most`, without the one at `except`.
    pub(super) fn nearest(&self, key: &DhtId, most: usize, except: Option<DhtId>) -> Vec<(PeerId, DhtId)> {
        let others = self.peers.iter().filter(|(_, id)| Some(**id) != except);
        let mut nodes: Vec<(PeerId, DhtId)> = others.map(|(peer, id)| (*peer, *id)).collect();
        if nodes.len() > most {
            nodes.select_nth_unstable_by_key(most, |(_, id)| id.distance(key));
            nodes.truncate(most);
        }
        nodes.sort_unstable_by_key(|(_, id)| id.distance(key));
        nodes
    }

    /// The nodes that were heard of longest ago, all of them before `before`.
    pub(super) fn stale(&self, before: Instant, most: usize) -> Vec<PeerId> {
        let mut nodes: Vec<&Node> = self.buckets.iter().flatten().filter(|node| node.heard < before).collect();
        nodes.sort_by_key(|node| node.heard);
        nodes.into_iter().take(most).map(|node| node.peer).collect()
    }

    /// `None` for our own place.
    fn bucket(&self, id: &DhtId) -> Option<usize> {
        let apart = self.me.distance(id);
        let byte = apart.0.iter().position(|byte| *byte != 0)?;
        Some(byte * 8 + apart.0[byte].leading_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(first: u8, last: u8) -> DhtId {
        let mut id = [0; 20];
        (id[0], id[19]) = (first, last);
        DhtId(id)
    }

    #[test]
    fn the_table_is_bounded_at_every_distance() {
        let (mut table, now) = (Table::new(id(0, 0)), Instant::now());
        for nth in 0..200 {
            table.heard(PeerId::random(), id(128, nth), now);
        }
        let near = PeerId::random();
        table.heard(near, id(0, 1), now);
        table.heard(PeerId::random(), id(0, 0), now);
        assert_eq!(table.peers.len(), BUCKET + 1, "our own place is nobody else's");
        assert_eq!(table.nearest(&id(0, 0), 1, None), [(near, id(0, 1))]);
        assert_eq!(table.nearest(&id(0, 0), 1, Some(id(0, 1)))[0].1.0[0], 128);
    }

    #[test]
    fn a_peer_has_one_place_and_may_leave_it() {
        let (mut table, now, peer) = (Table::new(id(0, 0)), Instant::now(), PeerId::random());
        table.heard(peer, id(1, 0), now);
        table.heard(peer, id(200, 0), now + Duration::from_secs(1));
        assert_eq!(table.nearest(&id(1, 0), 9, None), [(peer, id(200, 0))]);
        assert!(table.stale(now + Duration::from_secs(1), 9).is_empty());
        assert_eq!(table.stale(now + Duration::from_secs(2), 9), [peer]);
        table.remove(&peer);
        assert!(table.nearest(&id(1, 0), 9, None).is_empty() && table.buckets.iter().all(VecDeque::is_empty));
    }
}
