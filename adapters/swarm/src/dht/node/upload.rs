//! How fast this machine's network is, as far as the swarm's own nodes can tell.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use corolla_domain::ports::{FaultKind, PortError};
use libp2p::PeerId;
use tokio::time::{Instant, timeout};

use crate::dht::{Dht, message};

/// What is sent at once: long beside a request's other costs, and less than any node refuses to read.
const PADDING: usize = 512 << 10;
/// Short pings, of which the fastest is taken for the way there and back.
const SHORT: usize = 5;
/// Most that is sent to one peer: a connection gets faster in the course of it.
const ROUNDS: usize = 8;
/// Time after which a peer has said enough.
const ENOUGH: Duration = Duration::from_secs(3);
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Peers that are asked.
const PEERS: usize = 2;
/// More than any network that a swarm runs over; two processes of one machine would claim it.
const MOST_BITS: f64 = 1e10;
/// The tag of a field that no ping has, of type bytes: readers of protobuf pass over it.
const UNKNOWN_FIELD: u8 = 15 << 3 | 2;

/// Bits a second to the initial peer that takes most.
pub(super) async fn measure(dht: &Dht) -> Result<f64, PortError> {
    let mut best: Option<f64> = None;
    let mut fault = PortError::new(FaultKind::TimedOut, "no initial peer answered in time");
    let all = async {
        for peer in dht.initial.iter().take(PEERS) {
            match to(dht, *peer).await {
                Ok(bits) => best = Some(best.map_or(bits, |best| best.max(bits))),
                Err(error) => fault = error,
            }
        }
    };
    let _ = timeout(PATIENCE, all).await; // what was found by then counts
    best.ok_or(fault)
}

async fn to(dht: &Dht, peer: PeerId) -> Result<f64, PortError> {
    let short = message::ping_request(dht.place(), false);
    let long = padded(&short);
    let mut trip = took(dht, peer, &short).await?;
    for _ in 1..SHORT {
        trip = trip.min(took(dht, peer, &short).await?);
    }
    let (begun, mut best) = (Instant::now(), 0.0f64);
    for _ in 0..ROUNDS {
        let took = took(dht, peer, &long).await?.saturating_sub(trip);
        best = best.max(PADDING as f64 * 8.0 / took.as_secs_f64().max(1e-9));
        if begun.elapsed() > ENOUGH {
            break;
        }
    }
    Ok(best.min(MOST_BITS))
}

async fn took(dht: &Dht, peer: PeerId, request: &Bytes) -> Result<Duration, PortError> {
    let begun = Instant::now();
    let reply = dht.network.unary(peer, message::PING, request.clone(), PATIENCE).await?;
    let took = begun.elapsed();
    message::ping_reply(reply)?;
    Ok(took)
}

fn padded(request: &Bytes) -> Bytes {
    let mut padded = BytesMut::with_capacity(request.len() + PADDING + 8);
    padded.put_slice(request);
    padded.put_u8(UNKNOWN_FIELD);
    let mut left = PADDING;
    while left >= 0x80 {
        padded.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    padded.put_u8(left as u8);
    padded.put_bytes(0, PADDING);
    padded.freeze()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use async_trait::async_trait;

    use super::*;
    use crate::{
        dht::{DhtLimits, Unary, message::node_info, unix_time},
        wire::{
            key::DhtId,
            proto::{self, PingRequest, PingResponse},
        },
    };

    /// A peer that takes these times to answer a short ping, and 50 ms more than the way for a long one.
    struct Slow(Mutex<VecDeque<u64>>);

    /// There and back, with nothing in the way.
    const TRIP: u64 = 20;

    #[async_trait]
    impl Unary for Slow {
        async fn unary(&self, _: PeerId, _: &str, request: Bytes, _: Duration) -> Result<Bytes, PortError> {
            let short = || self.0.lock().unwrap().pop_front().unwrap();
            let took = if request.len() < PADDING { short() } else { TRIP + 50 };
            tokio::time::sleep(Duration::from_millis(took)).await;
            let peer = Some(node_info(Some(DhtId([1; 20]))));
            Ok(proto::encode(&PingResponse { peer, dht_time: 0.0, available: false }))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pings_that_were_held_up_do_not_make_the_network_faster() {
        let network = Arc::new(Slow(Mutex::new([65, 60, TRIP, 40, 68].into())));
        let dht = Dht::over(network, vec![PeerId::random()], DhtLimits::default(), unix_time);
        let bits = measure(&dht).await.unwrap();
        let sent = PADDING as f64 * 8.0 / 0.05;
        assert!((bits - sent).abs() < sent * 0.05, "{bits} bits a second, {sent} were sent");
    }

    #[test]
    fn a_padded_ping_is_a_ping() {
        let short = message::ping_request(None, true);
        let long = padded(&short);
        assert!(long.len() > PADDING);
        assert_eq!(proto::decode::<PingRequest>(long).unwrap(), proto::decode::<PingRequest>(short).unwrap());
    }
}
