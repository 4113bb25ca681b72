//! Messages of the DHT (§3.1).
#![no_main]

use corolla_swarm_fuzz::wire::proto::{self, FindResponse, PingResponse, StoreRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = proto::decode::<FindResponse>(bytes.to_vec()) {
        assert!(proto::decode::<FindResponse>(proto::encode(&found)).is_ok());
        for result in &found.results {
            assert!(result.neighbours().count() <= result.nearest_peer_ids.len());
        }
    }
    let _ = proto::decode::<PingResponse>(bytes.to_vec());
    let _ = proto::decode::<StoreRequest>(bytes.to_vec());
});
