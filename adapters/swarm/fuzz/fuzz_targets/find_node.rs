//! Answers to FIND_NODE (§1.6), with the ids and addresses in them.
#![no_main]

use corolla_swarm_fuzz::wire::proto::{self, KadMessage};
use libfuzzer_sys::fuzz_target;
use multiaddr::{Multiaddr, PeerId};

fuzz_target!(|bytes: &[u8]| {
    let Ok(answer) = proto::decode::<KadMessage>(bytes.to_vec()) else { return };
    assert_eq!(proto::decode::<KadMessage>(proto::encode(&answer)).as_ref(), Ok(&answer));
    assert!(answer.closer.len() <= 128);
    for peer in answer.closer {
        assert!(peer.addresses.len() <= 512);
        let _ = PeerId::from_bytes(&peer.id).map(|peer| peer.to_base58());
        for address in peer.addresses {
            if let Ok(address) = Multiaddr::try_from(address.to_vec()) {
                let text = address.to_string();
                assert!(address.iter().count() <= text.len());
            }
        }
    }
});
