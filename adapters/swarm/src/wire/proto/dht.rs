//! Messages of the hivemind DHT (§3.1). `auth` (field 1) is skipped: Petals never fills it.

use bytes::Bytes;

use super::bounds::{Bounded, Kind, Rule};

/// Keys of one request. We send at most 16; a busy Python node groups up to 16 as well.
const KEYS: usize = 256;
/// Neighbours of one result. The bucket size is 20.
const NEIGHBOURS: usize = 128;
/// Entries of one store request: all blocks of a large server, chunked by 16 upstream.
const ENTRIES: usize = 1024;

/// Who is asking.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeInfo {
    /// 20 bytes; empty for a node that only asks.
    #[prost(bytes = "bytes", tag = "1")]
    pub node_id: Bytes,
}

/// "Are you there?"
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PingRequest {
    /// The caller.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<NodeInfo>,
    /// Asks the callee to call back.
    #[prost(bool, tag = "3")]
    pub validate: bool,
}

/// "I am, and my clock says ..."
#[derive(Clone, PartialEq, prost::Message)]
pub struct PingResponse {
    /// The callee.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<NodeInfo>,
    /// Its clock, seconds since 1970.
    #[prost(double, tag = "4")]
    pub dht_time: f64,
    /// Whether the caller could be reached in return.
    #[prost(bool, tag = "5")]
    pub available: bool,
}

/// Aligned lists of entries to keep.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoreRequest {
    /// Key ids.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    /// Subkey tags: nil, empty, or a subkey in msgpack (§3.4).
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub subkeys: Vec<Bytes>,
    /// Values in msgpack.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub values: Vec<Bytes>,
    /// Seconds since 1970.
    #[prost(double, repeated, tag = "5")]
    pub expiration_time: Vec<f64>,
    /// Whether the entry goes to the cache.
    #[prost(bool, repeated, tag = "6")]
    pub in_cache: Vec<bool>,
    /// The caller.
    #[prost(message, optional, tag = "7")]
    pub peer: Option<NodeInfo>,
}

/// What was kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StoreResponse {
    /// One answer an entry.
    #[prost(bool, repeated, tag = "2")]
    pub store_ok: Vec<bool>,
    /// The callee.
    #[prost(message, optional, tag = "3")]
    pub peer: Option<NodeInfo>,
}

/// Keys looked for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FindRequest {
    /// Key ids.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    /// The caller.
    #[prost(message, optional, tag = "3")]
    pub peer: Option<NodeInfo>,
}

/// What one node knows of one key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FindResult {
    /// A [`ResultType`].
    #[prost(int32, tag = "1")]
    pub r#type: i32,
    /// The value, where there is one.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Its expiration, seconds since 1970.
    #[prost(double, tag = "3")]
    pub expiration_time: f64,
    /// Nearest nodes, aligned with `nearest_peer_ids`.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub nearest_node_ids: Vec<Bytes>,
    /// Their peer ids.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub nearest_peer_ids: Vec<Bytes>,
}

/// One result a key, in the order asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FindResponse {
    /// The results.
    #[prost(message, repeated, tag = "2")]
    pub results: Vec<FindResult>,
    /// The callee.
    #[prost(message, optional, tag = "3")]
    pub peer: Option<NodeInfo>,
}

/// Kinds of a [`FindResult`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ResultType {
    /// No value, only neighbours.
    NotFound = 0,
    /// A value in msgpack.
    Regular = 1,
    /// A dictionary (§3.5).
    Dictionary = 2,
}

impl FindResult {
    /// What was found; `None` for a kind this specification does not know.
    #[must_use]
    pub fn kind(&self) -> Option<ResultType> {
        self.r#type.try_into().ok()
    }
}

impl Bounded for PingRequest {
    const NAME: &'static str = "ping request";
    const RULES: &'static [Rule] = &[];
}

impl Bounded for PingResponse {
    const NAME: &'static str = "ping response";
    const RULES: &'static [Rule] = &[];
}

impl Bounded for StoreRequest {
    const NAME: &'static str = "store request";
    const RULES: &'static [Rule] = &[
        Rule { field: 2, most: ENTRIES, kind: Kind::Bytes },
        Rule { field: 3, most: ENTRIES, kind: Kind::Bytes },
        Rule { field: 4, most: ENTRIES, kind: Kind::Bytes },
        Rule { field: 5, most: ENTRIES, kind: Kind::Doubles },
        Rule { field: 6, most: ENTRIES, kind: Kind::Varints },
    ];
}

impl Bounded for StoreResponse {
    const NAME: &'static str = "store response";
    const RULES: &'static [Rule] = &[Rule { field: 2, most: ENTRIES, kind: Kind::Varints }];
}

impl Bounded for FindRequest {
    const NAME: &'static str = "find request";
    const RULES: &'static [Rule] = &[Rule { field: 2, most: KEYS, kind: Kind::Bytes }];
}

impl Bounded for FindResponse {
    const NAME: &'static str = "find response";
    const RULES: &'static [Rule] = &[Rule {
        field: 2,
        most: KEYS,
        kind: Kind::Message(&[
            Rule { field: 4, most: NEIGHBOURS, kind: Kind::Bytes },
            Rule { field: 5, most: NEIGHBOURS, kind: Kind::Bytes },
        ]),
    }];
}
