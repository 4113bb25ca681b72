//! What a node answers (wire protocol §3.4).

use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use tokio::time::{Instant, timeout};

use super::{Shared, offered, storage::Found};
use crate::{
    dht::{message, unix_time},
    rpc::Outcome,
    wire::{
        WireError,
        key::DhtId,
        proto::{
            self, Bounded, FindRequest, FindResponse, FindResult, NodeInfo, PingRequest, PingResponse, ResultType,
            StoreRequest, StoreResponse,
        },
    },
};

/// Nodes named in an answer.
const NEAREST: usize = 20;
/// How long a node that wants to be checked may take to answer; it waits for three seconds itself.
const CALLING_BACK: Duration = Duration::from_millis(2500);
/// What a record costs that a peer stores, in calls that are in vain: so many of them are one.
const RECORD: f64 = 1.0 / 32.0;
/// Most bytes of values in one answer: a unary reply has 4 MiB, and the nodes named beside 256 keys take less than one.
const MOST_FOUND: usize = 3 << 20;

impl Shared {
    /// `rpc_ping`.
    pub(super) async fn ping(&self, peer: PeerId, request: Bytes) -> Outcome {
        let request: PingRequest = read(request)?;
        let place = place(request.peer.as_ref())?;
        let mut available = false;
        if let Some(place) = place {
            available = request.validate && self.call_back(peer).await.1 == Some(place);
            if available || !request.validate {
                self.heard(peer, place);
            }
        }
        Ok(proto::encode(&PingResponse { peer: Some(self.info()), dht_time: unix_time(), available }))
    }

    /// `rpc_store`.
    pub(super) fn store(&self, peer: PeerId, request: Bytes) -> Outcome {
        let request: StoreRequest = read(request)?;
        let place = place(request.peer.as_ref())?;
        let entries = offered(request)?;
        let (mut state, now) = (self.state(), unix_time());
        let store_ok: Vec<bool> = entries
            .into_iter()
            .map(|offered| offered.is_some_and(|(key, at, entry)| state.storage.store(peer, key, &at, &entry, now)))
            .collect();
        drop(state);
        self.conduct.charge(peer, RECORD * store_ok.len() as f64);
        place.into_iter().for_each(|place| self.heard(peer, place));
        Ok(proto::encode(&StoreResponse { store_ok, peer: Some(self.info()) }))
    }

    /// `rpc_find`.
    pub(super) fn find(&self, peer: PeerId, request: Bytes) -> Outcome {
        let request: FindRequest = read(request)?;
        let asking = place(request.peer.as_ref())?;
        let keys: Vec<DhtId> =
            request.keys.iter().map(|key| DhtId::from_wire(key)).collect::<Result<_, _>>().map_err(|e| fault(&e))?;
        let (mut room, now) = (MOST_FOUND, unix_time());
        let mut results = Vec::with_capacity(keys.len());
        {
            let mut state = self.state();
            for key in &keys {
                let size = state.storage.size(key, now);
                let fits = size <= room;
                let found = if fits { state.storage.find(key, now) } else { None };
                if fits {
                    room -= size;
                } else {
                    tracing::debug!(%peer, ?key, size, "there is no room for a value in an answer");
                }
                let mut result = found.map_or_else(FindResult::default, found_result);
                let nearest = state.table.nearest(key, NEAREST, asking);
                for (peer, id) in nearest {
                    result.nearest_node_ids.push(Bytes::copy_from_slice(&id.0));
                    result.nearest_peer_ids.push(peer.to_bytes().into());
                }
                results.push(result);
            }
        }
        asking.into_iter().for_each(|place| self.heard(peer, place));
        Ok(proto::encode(&FindResponse { results, peer: Some(self.info()) }))
    }

    /// Asks a node who it is; `None` where it does not say in time.
    pub(super) async fn call_back(&self, peer: PeerId) -> (PeerId, Option<DhtId>) {
        let request = message::ping_request(self.dht.place(), false);
        let reply = timeout(CALLING_BACK, self.dht.network.unary(peer, message::PING, request, CALLING_BACK)).await;
        let id = reply.ok().and_then(Result::ok).and_then(|reply| message::ping_reply(reply).ok());
        (peer, id.map(|(id, _)| id))
    }

    fn heard(&self, peer: PeerId, place: DhtId) {
        self.state().table.heard(peer, place, Instant::now());
    }

    fn info(&self) -> NodeInfo {
        message::node_info(Some(self.member.place))
    }
}

fn found_result(found: Found) -> FindResult {
    match found {
        Found::Plain(entry) => FindResult {
            r#type: ResultType::Regular.into(),
            value: entry.value,
            expiration_time: entry.expiration,
            ..FindResult::default()
        },
        Found::Dictionary(dictionary) => FindResult {
            r#type: ResultType::Dictionary.into(),
            expiration_time: dictionary.entries.values().map(|entry| entry.expiration).fold(0.0, f64::max),
            value: dictionary.encode().into(),
            ..FindResult::default()
        },
    }
}

/// The place of who asks; `None` for one who only asks.
fn place(peer: Option<&NodeInfo>) -> Result<Option<DhtId>, String> {
    match peer.map(|peer| &peer.node_id) {
        Some(id) if !id.is_empty() => DhtId::from_wire(id).map(Some).map_err(|error| fault(&error)),
        _ => Ok(None),
    }
}

fn read<M: Bounded>(request: Bytes) -> Result<M, String> {
    proto::decode(request).map_err(|error| fault(&error))
}

fn fault(error: &WireError) -> String {
    format!("ValueError('{error}')")
}
