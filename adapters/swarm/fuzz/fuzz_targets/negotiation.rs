//! The text phase of a stream (§1.8), as either side, read in any portions.
#![no_main]

use corolla_swarm_fuzz::transport::negotiate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((how, said)) = bytes.split_first() else { return };
    negotiate(said, how & 1 == 0, usize::from(how >> 1));
});
