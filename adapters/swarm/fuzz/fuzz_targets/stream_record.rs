//! Records of a stream (§2.3), pushed in two halves.
#![no_main]

use corolla_swarm_fuzz::wire::frame::{MAX_RECORD, StreamDecoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let mut decoder = StreamDecoder::new(MAX_RECORD);
    for half in [head, tail] {
        decoder.push(half);
        while let Ok(Some(_)) = decoder.next() {}
    }
    assert!(decoder.pending() <= bytes.len());
});
