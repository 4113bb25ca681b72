//! Questions and answers of libp2p's Kademlia (§1.6), as far as they tell where peers are.

use bytes::Bytes;

use super::bounds::{Bounded, Kind, Rule};

/// Peers of one answer: a bucket of 20 and the target.
const PEERS: usize = 128;
/// Addresses of one peer: a dozen, or a few of each of many relays.
const ADDRESSES: usize = 512;

/// A message of Kademlia, as far as FIND_NODE needs it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KadMessage {
    /// What is asked: one of the kinds below.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The peer looked for, as bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// Peers nearer to it, or itself.
    #[prost(message, repeated, tag = "8")]
    pub closer: Vec<KadPeer>,
    /// Of no use here.
    #[prost(int32, tag = "10")]
    pub cluster_level: i32,
}

/// A peer in an answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KadPeer {
    /// Its id.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Where it may be found: multiaddresses in their binary form.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub addresses: Vec<Bytes>,
}

impl KadMessage {
    /// A value, or peers nearer to its key.
    pub const GET_VALUE: i32 = 1;
    /// Who has something, or peers nearer to its key.
    pub const GET_PROVIDERS: i32 = 3;
    /// Peers nearer to a key: the one kind that is asked here.
    pub const FIND_NODE: i32 = 4;
    /// Whether anybody is there.
    pub const PING: i32 = 5;

    /// "Where is this peer?"
    #[must_use]
    pub fn find_node(target: impl Into<Bytes>) -> Self {
        Self { kind: Self::FIND_NODE, key: target.into(), closer: Vec::new(), cluster_level: 0 }
    }
}

impl Bounded for KadMessage {
    const NAME: &'static str = "FIND_NODE answer";
    const RULES: &'static [Rule] = &[Rule {
        field: 8,
        most: PEERS,
        kind: Kind::Message(&[Rule { field: 2, most: ADDRESSES, kind: Kind::Bytes }]),
    }];
}
