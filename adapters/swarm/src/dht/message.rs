//! What is said to a DHT node, and what it may say back (wire protocol §3.1, §3.4).

use std::collections::HashSet;

use bytes::Bytes;
use corolla_domain::ports::PortError;
use libp2p::PeerId;

use crate::wire::{
    WireError,
    key::DhtId,
    msgpack::Value,
    proto::{
        self, FindRequest, FindResponse, FindResult, NodeInfo, PingRequest, PingResponse, ResultType, StoreRequest,
    },
};

pub(super) const PING: &str = "DHTProtocol.rpc_ping";
pub(super) const STORE: &str = "DHTProtocol.rpc_store";
pub(super) const FIND: &str = "DHTProtocol.rpc_find";

/// Neighbours taken from one result: a bucket of hivemind's.
const NEIGHBOURS: usize = 20;

/// A reply to `rpc_find`.
pub(super) struct Answer {
    /// The node's own place, where it says.
    pub(super) node: Option<DhtId>,
    /// For each key asked the serialized dictionary it has.
    pub(super) results: Vec<Option<Bytes>>,
    /// Nodes it knows near the keys.
    pub(super) neighbours: Vec<(PeerId, DhtId)>,
}

/// Who is speaking: a node at its place, or one that only asks.
pub(super) fn node_info(place: Option<DhtId>) -> NodeInfo {
    NodeInfo { node_id: place.map_or_else(Bytes::new, |place| Bytes::copy_from_slice(&place.0)) }
}

/// "Who are you, and what time is it?"; with `validate`, "and can you reach me?"
pub(super) fn ping_request(from: Option<DhtId>, validate: bool) -> Bytes {
    proto::encode(&PingRequest { peer: Some(node_info(from)), validate })
}

/// The node's place and its clock.
pub(super) fn ping_reply(bytes: Bytes) -> Result<(DhtId, f64), PortError> {
    let reply: PingResponse = proto::decode(bytes)?;
    let node = reply.peer.ok_or_else(|| WireError::malformed("ping response", "without a node id"))?;
    Ok((DhtId::from_wire(&node.node_id)?, reply.dht_time))
}

/// "Who has these keys?"
pub(super) fn find_request(keys: &[DhtId], from: Option<DhtId>) -> Bytes {
    let keys = keys.iter().map(|id| Bytes::copy_from_slice(&id.0)).collect();
    proto::encode(&FindRequest { keys, peer: Some(node_info(from)) })
}

/// "Keep these": entries of dictionaries, each with its key and subkey.
pub(super) fn store_request<'a>(
    entries: impl Iterator<Item = (DhtId, &'a String, &'a Bytes)>,
    expiration: f64,
    from: Option<DhtId>,
) -> Bytes {
    let mut request = StoreRequest { peer: Some(node_info(from)), ..StoreRequest::default() };
    for (key, subkey, value) in entries {
        request.keys.push(Bytes::copy_from_slice(&key.0));
        request.subkeys.push(Value::from(subkey.as_str()).encode().into());
        request.values.push(value.clone());
        request.expiration_time.push(expiration);
        request.in_cache.push(false);
    }
    proto::encode(&request)
}

/// Reads the reply to a question for `keys` keys. A neighbour that cannot be read costs that neighbour.
pub(super) fn find_reply(bytes: Bytes, keys: usize) -> Result<Answer, PortError> {
    let reply: FindResponse = proto::decode(bytes)?;
    if reply.results.len() != keys {
        let text = format!("{} results for {keys} keys", reply.results.len());
        return Err(WireError::malformed("find response", text).into());
    }
    let node = reply.peer.and_then(|peer| DhtId::from_wire(&peer.node_id).ok());
    let mut seen = HashSet::new();
    let neighbours = reply.results.iter().flat_map(neighbours).filter(|(peer, _)| seen.insert(*peer)).collect();
    let value = |result: FindResult| (result.kind() == Some(ResultType::Dictionary)).then_some(result.value);
    Ok(Answer { node, results: reply.results.into_iter().map(value).collect(), neighbours })
}

fn neighbours(result: &FindResult) -> impl Iterator<Item = (PeerId, DhtId)> + '_ {
    let pairs = result.nearest_peer_ids.iter().zip(&result.nearest_node_ids);
    pairs.filter_map(|(peer, id)| Some((PeerId::from_bytes(peer).ok()?, DhtId::from_wire(id).ok()?))).take(NEIGHBOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(peers: Vec<Bytes>, ids: Vec<Bytes>) -> FindResult {
        FindResult { nearest_peer_ids: peers, nearest_node_ids: ids, ..FindResult::default() }
    }

    #[test]
    fn requests_are_those_of_the_specification() {
        assert_eq!(ping_request(None, true), Bytes::from_static(&[0x12, 0, 0x18, 1]));
        let hex = |request: Bytes| request.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let key = DhtId::of_key("bloom-560m-petals.0");
        assert_eq!(hex(find_request(&[key], None)), "1214ca10260960ae8a0303fcb5c7c18079f5223ae2a71a00");
        let place = DhtId(std::array::from_fn(|i| i as u8));
        let value = Bytes::from_static(&[0xc7, 0x0b, 0x40, 0x92, 0x02, 0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        let entry = (key, &"QmPeerA".to_owned(), &value);
        assert_eq!(
            hex(store_request([entry].into_iter(), 1_700_000_100.0, Some(place))),
            "1214ca10260960ae8a0303fcb5c7c18079f5223ae2a71a08a7516d5065657241220ec70b409202cb3ff80000000000002a080000\
             0059fc54d9413201003a160a14000102030405060708090a0b0c0d0e0f10111213"
        );
    }

    #[test]
    fn a_broken_neighbour_costs_that_neighbour() {
        let (good, id) = (PeerId::random(), DhtId([7; 20]));
        let peers = vec![Bytes::from_static(b"no peer"), good.to_bytes().into(), good.to_bytes().into()];
        let ids = vec![Bytes::copy_from_slice(&id.0), Bytes::copy_from_slice(&id.0), Bytes::from_static(b"short")];
        let reply = FindResponse { results: vec![result(peers, ids)], peer: None };
        let answer = find_reply(proto::encode(&reply), 1).unwrap();
        assert_eq!(answer.neighbours, [(good, id)]);
        assert!(answer.results == [None] && answer.node.is_none());
    }

    #[test]
    fn a_wrong_number_of_results_is_refused() {
        let reply = FindResponse { results: vec![result(vec![], vec![])], peer: None };
        assert!(find_reply(proto::encode(&reply), 2).is_err());
    }
}
