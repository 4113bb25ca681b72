//! Dictionaries of the DHT (§3.5).
#![no_main]

use corolla_swarm_fuzz::wire::record::Dictionary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(dictionary) = Dictionary::decode(bytes) {
        let again = Dictionary::decode(&dictionary.encode()).expect("what we wrote");
        assert_eq!(again.entries, dictionary.entries);
    }
});
