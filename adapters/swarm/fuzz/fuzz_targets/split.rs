//! Tensors in pieces (§5.4): what is joined is within the limits, and nothing is made of nothing.
#![no_main]

use corolla_swarm_fuzz::wire::{
    proto::{self, ExpertResponse},
    tensor::{Joiner, Limits, decode},
};
use libfuzzer_sys::fuzz_target;

const MOST_TENSORS: usize = 3;
const MOST_BYTES: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Ok(response) = proto::decode::<ExpertResponse>(bytes.to_vec()) else { return };
    let sent: usize = response.tensors.iter().map(|piece| piece.buffer.len()).sum();
    let mut joiner = Joiner::new(MOST_TENSORS, MOST_BYTES);
    for piece in response.tensors {
        if joiner.push(piece).is_err() {
            return;
        }
    }
    let whole = joiner.finish();
    let joined: usize = whole.iter().map(|tensor| tensor.buffer.len()).sum();
    assert!(whole.len() <= MOST_TENSORS && joined <= MOST_BYTES && joined == sent);
    for tensor in &whole {
        let _ = decode(tensor, Limits::default());
    }
});
