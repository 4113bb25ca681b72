//! Tensors and their codecs (§5), whole and in pieces.
#![no_main]

use corolla_swarm_fuzz::wire::{proto, tensor};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = proto::decode::<proto::Tensor>(bytes.to_vec()) else { return };
    if let Ok(decoded) = tensor::decode(&message, tensor::Limits::default()) {
        let count: usize = decoded.shape.iter().product();
        assert_eq!(decoded.data.len(), count * decoded.dtype.size());
        let _ = decoded.to_hidden().map(|hidden| hidden.is_finite());
    }
    let mut joiner = tensor::Joiner::new(1, bytes.len());
    for piece in tensor::split(&message, 16) {
        let _ = joiner.push(piece);
    }
    let _ = joiner.finish();
});
