//! Blocks without a cache, whole and in pieces.

use std::time::Duration;

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden, Hop, PeerId},
    ports::{FaultKind, PortError, RemoteSwarm as _},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm, wire::proto::Tensor};

use crate::{
    blocks::Blocks,
    config_at,
    fake::{BLOCKS, WIDTH},
    party::{Party, Twist},
    states,
};

/// Positions of 1 MiB of f32.
const MEGABYTE: usize = (1 << 20) / (4 * WIDTH);

async fn lone() -> (Party, PetalsSwarm, Hop) {
    let party = Party::start(&[(0, BLOCKS, "2.2.0")]).await;
    let config = PetalsConfig { request_timeout: Duration::from_secs(60), ..config_at(party.addresses()) };
    let hop = Hop { peer: PeerId(party.0[0].peer().to_base58()), blocks: BlockRange::first(BLOCKS) };
    (party, PetalsSwarm::start(config).await.unwrap(), hop)
}

#[tokio::test]
async fn a_megabyte_is_sent_at_once_and_more_is_streamed() {
    let (party, swarm, hop) = lone().await;
    for (batch, seq, counts) in [(1, 3, [1, 0]), (2, MEGABYTE / 2, [2, 0]), (3, MEGABYTE / 2, [2, 1])] {
        let input = states(batch, seq, 1);
        let output = swarm.forward(hop.clone(), input.clone()).await.unwrap();
        assert!(output == Blocks::new(hop.blocks).step(&input), "{batch} rows of {seq}");
        assert_eq!([party.count(|d| &d.unary)[0], party.count(|d| &d.streamed)[0]], counts);
    }
    // three pieces there and three back
    let (input, blocks) = (states(9, MEGABYTE, 2), BlockRange::new(1, 3).unwrap());
    let output = swarm.forward(Hop { blocks, ..hop }, input.clone()).await.unwrap();
    assert!(output == Blocks::new(blocks).step(&input), "9 rows of {MEGABYTE}");
    assert_eq!(party.count(|d| &d.open), [0]);
}

#[tokio::test]
async fn the_caller_gets_its_own_type() {
    let (_party, swarm, hop) = lone().await;
    let wanted = Blocks::new(hop.blocks).step(&states(1, 1, 1));
    let ones = |dtype, one: u16| {
        let data: Vec<u8> =
            wanted_input().iter().flat_map(|n| if *n == 0.0 { [0, 0] } else { one.to_le_bytes() }).collect();
        Hidden::new((1, 1, WIDTH), dtype, data.into()).unwrap()
    };
    let expected = Blocks::new(hop.blocks).step(&ones(ElementType::Bf16, 0x3f80));
    for (dtype, one) in [(ElementType::Bf16, 0x3f80), (ElementType::F16, 0x3c00)] {
        let output = swarm.forward(hop.clone(), ones(dtype, one)).await.unwrap();
        assert_eq!((output.dtype(), output.to_f32()), (dtype, expected.to_f32()));
    }
    assert_eq!(swarm.forward(hop, states(1, 1, 1)).await.unwrap(), wanted);
}

/// Noughts and ones: exact in every type, and so is what the blocks make of them at the first position.
fn wanted_input() -> [f32; WIDTH] {
    std::array::from_fn(|i| (i % 2) as f32)
}

#[tokio::test]
async fn nonsense_is_the_servers_fault_in_either_form() {
    let (party, swarm, hop) = lone().await;
    let twists: [(Twist, FaultKind, &str); 8] = [
        (|t| Some(vec![Tensor { size: vec![t.size[1], t.size[0], t.size[2]], ..t }]), FaultKind::Unavailable, "shape"),
        (|t| Some(vec![t.clone(), t]), FaultKind::Unavailable, "tensor"),
        (|t| Some(vec![t.clone(), Tensor { buffer: vec![0; 4].into(), ..t }]), FaultKind::Unavailable, "tensor"),
        (|_| Some(vec![]), FaultKind::Unavailable, "0 tensors"),
        (|t| Some(vec![Tensor { buffer: t.buffer.slice(4..), ..t }]), FaultKind::Unavailable, "buffer"),
        (|t| Some(vec![Tensor { dtype: "int32".into(), ..t }]), FaultKind::Unavailable, "int32"),
        (|t| Some(vec![Tensor { buffer: vec![0xff; t.buffer.len()].into(), ..t }]), FaultKind::Unavailable, "finite"),
        (|_| Some(vec![Tensor::default(); 60]), FaultKind::Unavailable, ""),
    ];
    let peer = party.0[0].peer().to_string();
    for (twist, kind, words) in twists {
        *party.0[0].twist.lock().unwrap() = twist;
        for input in [states(2, 3, 1), states(2, MEGABYTE * 5 / 8, 1)] {
            let fault = swarm.forward(hop.clone(), input).await.unwrap_err();
            assert_eq!(fault.kind(), kind, "{fault}");
            assert!(fault.context().contains(&peer) && fault.context().contains(words), "{words}: {fault}");
        }
    }
    *party.0[0].twist.lock().unwrap() = |_| None;
    let hasty = PetalsSwarm::start(config_at(party.addresses())).await.unwrap();
    for input in [states(2, 3, 1), states(2, MEGABYTE * 5 / 8, 1)] {
        let fault = hasty.forward(hop.clone(), input).await.unwrap_err();
        assert!(fault.kind() == FaultKind::TimedOut && fault.context().contains("longer than"), "{fault}");
    }
    // in pieces only
    let twists: [(Twist, &str); 2] = [
        (|t| Some(vec![t, Tensor { buffer: vec![0; 1 << 20].into(), ..Tensor::default() }]), "limit"),
        (|t| Some(std::iter::once(t).chain(vec![Tensor::default(); 2000]).collect()), "1024 messages"),
    ];
    for (twist, words) in twists {
        *party.0[0].twist.lock().unwrap() = twist;
        let fault = swarm.forward(hop.clone(), states(2, MEGABYTE * 5 / 8, 1)).await.unwrap_err();
        assert!(fault.kind() == FaultKind::Unavailable && fault.context().contains(words), "{words}: {fault}");
    }
    *party.0[0].twist.lock().unwrap() = |tensor| Some(vec![tensor]);
    swarm.forward(hop, states(1, 1, 1)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_here() {
    let (party, swarm, hop) = lone().await;
    let refused =
        async |hop: &Hop, hidden: Hidden| -> PortError { swarm.forward(hop.clone(), hidden).await.unwrap_err() };
    let beyond = Hop { blocks: BlockRange::new(3, 5).unwrap(), ..hop.clone() };
    assert_eq!(refused(&beyond, states(1, 1, 1)).await.kind(), FaultKind::InvalidInput);
    let wide = Hidden::from_f32((1, 1, WIDTH + 1), &[0.0; WIDTH + 1]).unwrap();
    assert_eq!(refused(&hop, wide).await.kind(), FaultKind::InvalidInput);
    let nobody = Hop { peer: PeerId(libp2p::PeerId::random().to_base58()), ..hop.clone() };
    let nobody = refused(&nobody, states(1, 1, 1)).await;
    assert!(matches!(nobody.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{nobody}");
    party.0[0].kill();
    for input in [states(1, 1, 1), states(2, MEGABYTE * 5 / 8, 1)] {
        let dead = refused(&hop, input).await;
        assert_eq!(dead.kind(), FaultKind::Unavailable, "{dead}");
    }
}
