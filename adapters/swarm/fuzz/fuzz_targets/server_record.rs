//! What servers publish (§4).
#![no_main]

use corolla_swarm_fuzz::wire::server::{ModelRecord, ServerRecord};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = ServerRecord::decode(bytes) {
        assert!(ServerRecord::decode(&record.encode()).is_ok());
    }
    if let Ok(record) = ModelRecord::decode(bytes) {
        assert_eq!(ModelRecord::decode(&record.encode()), Ok(record));
    }
});
