//! Replies to a step (§6.6): what is accepted has the shape that was sent.
#![no_main]

use corolla_domain::model::Hidden;
use corolla_swarm_fuzz::wire::inference::parse_hidden;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let sent = Hidden::from_f32((1, 2, 4), &[0.0; 8]).expect("fits");
    if let Ok(hidden) = parse_hidden(bytes.to_vec().into(), &sent) {
        assert_eq!((hidden.batch(), hidden.seq(), hidden.width()), (1, 2, 4));
    }
});
