//! Protobuf messages of the RPC layer, the DHT, the block servers and Kademlia (§2.2, §2.4, §3.1, §1.6), written by hand.
//!
//! [`decode`] is the door: it counts repeated fields first (`bounds.rs`), since an element of two bytes on the wire can
//! take a hundred in memory.

mod bounds;
mod dht;
mod expert;
mod kad;
mod rpc;

use bytes::Bytes;
use prost::Message;

use super::WireError;

pub use bounds::{Bounded, Kind, Rule};
pub use dht::{
    FindRequest, FindResponse, FindResult, NodeInfo, PingRequest, PingResponse, ResultType, StoreRequest, StoreResponse,
};
pub use expert::{Compression, ExpertInfo, ExpertRequest, ExpertResponse, ExpertUid, Tensor};
pub use kad::{KadMessage, KadPeer};
pub use rpc::{CallUnaryRequest, CallUnaryResponse, PersistentConnectionRequest, RpcError, call, outcome};

/// Reads one message; byte fields share memory with `bytes`.
///
/// # Errors
/// Where a repeated field breaks the rules of the message, or the bytes are no such message.
pub fn decode<M: Bounded>(bytes: impl Into<Bytes>) -> Result<M, WireError> {
    let bytes = bytes.into();
    bounds::check(M::NAME, &bytes, M::RULES)?;
    M::decode(bytes).map_err(|e| WireError::malformed(M::NAME, e.to_string()))
}

/// The bytes of a message.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}
