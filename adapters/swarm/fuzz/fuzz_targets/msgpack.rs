//! msgpack (§3.3): what is read can be written and read again, to the same bytes.
#![no_main]

use corolla_swarm_fuzz::wire::msgpack::Value;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::decode(bytes) {
        let written = value.encode();
        let again = Value::decode(&written).expect("what we wrote");
        assert_eq!(again.encode(), written);
    }
});
