//! What a server says of itself (§6.2).
#![no_main]

use corolla_swarm_fuzz::wire::inference::parse_info;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_info(bytes.to_vec().into());
});
