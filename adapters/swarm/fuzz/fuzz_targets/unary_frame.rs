//! Unary frames (§2.2), pushed in two halves.
#![no_main]

use corolla_swarm_fuzz::wire::frame::{MAX_UNARY, UnaryDecoder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let mut decoder = UnaryDecoder::new(MAX_UNARY);
    for half in [head, tail] {
        decoder.push(half);
        while let Ok(Some(_)) = decoder.next() {}
    }
    assert!(decoder.pending() <= bytes.len());
});
