//! Gradients: what callers are answered, and how those are refused who ask for what cannot be, or is too much.

use std::{sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BackwardInput, BlockEngine as _, Gradients, PortError},
};
use corolla_swarm::{
    rpc::Rpc,
    server::ServerLimits,
    transport::PeerId,
    wire::{
        inference::{RPC_INFERENCE, args_structure, forward_pieces, step_request},
        msgpack::Value,
        proto::{self, Compression, ExpertRequest, ExpertResponse, Tensor},
        serving::{RPC_BACKWARD, RPC_BACKWARD_STREAM},
        tensor::{self, Dtype, Joiner},
    },
};
use futures_util::future::join_all;
use testkit::block_engine::{self, Subject};

use crate::{
    BLOCKS, CACHE, House, WIDTH,
    calls::{WAIT, ask, metadata, opening, plain, prompts, raw, uids},
    engine::Toy,
    states,
    strangers::tensor_of,
    until,
};

fn request(uid: &str, tensors: Vec<Tensor>, extra: &[(&str, Value)]) -> ExpertRequest {
    ExpertRequest { uid: uid.to_owned(), tensors, metadata: metadata(extra) }
}

fn nobody() -> Tensor {
    tensor::dummy(Dtype::F32)
}

/// What the engine itself says, prompts as it takes them.
async fn wanted(hidden: &Hidden, gradient: &Hidden, prompt: Option<&Tensor>) -> Gradients {
    let prompts = prompt.map_or(Vec::new(), |prompt| {
        let all = tensor::decode(prompt, tensor::Limits::default()).unwrap().to_f64();
        let all: Vec<f32> = all.into_iter().map(|v| v as f32).collect();
        let [_, rows, positions, width] = [0, 1, 2, 3].map(|side| prompt.size[side] as usize);
        let each = all.chunks(rows * positions * width);
        each.map(|numbers| Hidden::from_f32((rows, positions, width), numbers).unwrap()).collect()
    });
    let input = BackwardInput { hidden: hidden.clone(), gradient: gradient.clone(), prompts };
    let all = BlockRange::first(BLOCKS);
    Toy::new(all, CACHE).backward(all, input).await.unwrap()
}

async fn unary(rpc: &Rpc, peer: PeerId, request: &ExpertRequest) -> Result<Vec<Tensor>, PortError> {
    let reply = rpc.unary(peer, RPC_BACKWARD, proto::encode(request), WAIT).await?;
    Ok(proto::decode::<ExpertResponse>(reply).unwrap().tensors)
}

async fn streamed(rpc: &Rpc, peer: PeerId, request: &ExpertRequest, chunk: usize) -> Result<Vec<Tensor>, PortError> {
    let mut stream = rpc.stream(peer, RPC_BACKWARD_STREAM).await?;
    for piece in forward_pieces(request, chunk) {
        stream.send(proto::encode(&piece)).await?;
    }
    stream.finish().await?;
    let mut joiner = Joiner::new(2, 1 << 20);
    while let Some(reply) = stream.next(WAIT).await? {
        let response: ExpertResponse = proto::decode(reply).unwrap();
        response.tensors.into_iter().for_each(|piece| joiner.push(piece).unwrap());
    }
    Ok(joiner.finish())
}

/// The gradients by prompts as one tensor holds them.
fn stacked(tensor: &Tensor) -> Vec<f32> {
    tensor::decode(tensor, tensor::Limits::default()).unwrap().to_f64().into_iter().map(|v| v as f32).collect()
}

fn check(found: &[Tensor], wanted: &Gradients) {
    assert_eq!(found.len(), 1 + usize::from(!wanted.prompts.is_empty()));
    assert_eq!(plain(&found[0]), wanted.hidden);
    if let Some(first) = wanted.prompts.first() {
        let sides = [wanted.prompts.len(), first.batch(), first.seq(), WIDTH];
        assert_eq!(found[1].size, sides.map(|side| side as u32));
        assert_eq!(stacked(&found[1]), wanted.prompts.iter().flat_map(Hidden::to_f32).collect::<Vec<_>>());
    }
}

/// The engine that the servers of these tests have keeps the contract, or the tests would say nothing.
#[tokio::test]
async fn the_toy_engine_keeps_the_contract_of_gradients() {
    let engine = Toy::new(BlockRange::first(BLOCKS), CACHE);
    let subject = Subject { engine: Arc::new(engine), width: WIDTH, tolerance: 1e-5 };
    block_engine::gradients_equal_numerical_differences(&subject).await;
    block_engine::gradients_go_from_part_to_part(&subject).await;
    block_engine::gradients_of_what_does_not_fit_are_refused(&subject).await;
    block_engine::gradients_leave_sessions_alone(&subject).await;
}

#[tokio::test]
async fn gradients_come_in_one_piece_and_in_many() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let (hidden, gradient) = (states(2, 5, 1), states(2, 5, 2));
    for prompt in [None, Some(prompts(4, 2))] {
        let wanted = wanted(&hidden, &gradient, prompt.as_ref()).await;
        let tensors = vec![raw(&hidden), raw(&gradient), prompt.unwrap_or_else(nobody)];
        let whole = request(&uids(0, 4), tensors, &[("args_structure", args_structure(3))]);
        check(&unary(&rpc, peer, &whole).await.unwrap(), &wanted);
        check(&streamed(&rpc, peer, &whole, 100).await.unwrap(), &wanted);
    }
    // The order of arguments is the caller's.
    let swapped = Value::Tuple(vec![
        Value::Tuple(["__T1", "__T0", "__T2"].map(|name| Value::Bytes(Bytes::from_static(name.as_bytes()))).to_vec()),
        Value::Map(Vec::new()),
    ]);
    let tensors = vec![raw(&gradient), raw(&hidden), nobody()];
    let swapped = request(&uids(0, 4), tensors, &[("args_structure", swapped)]);
    check(&unary(&rpc, peer, &swapped).await.unwrap(), &wanted(&hidden, &gradient, None).await);
    // Nothing comes of no positions.
    let empty = || Tensor { size: vec![2, 0, WIDTH as u32], ..tensor::dummy(Dtype::F32) };
    let none = request(&uids(0, 4), vec![empty(), empty(), nobody()], &[]);
    assert_eq!(unary(&rpc, peer, &none).await.unwrap()[0].size, [2, 0, 8]);
}

#[tokio::test]
async fn the_caller_chooses_the_codecs_of_gradients() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let (hidden, gradient, prompt) = (states(2, 5, 1), states(2, 5, 2), prompts(4, 2));
    let wanted = wanted(&hidden, &gradient, Some(&prompt)).await;
    let wanted = [wanted.hidden.to_f32(), wanted.prompts.iter().flat_map(Hidden::to_f32).collect()];
    for (code, tolerance) in [(0, 0.0), (1, 2e-3), (2, 1e-3), (3, 0.1), (4, 0.2), (5, 0.02)] {
        let codecs = ("output_compression", Value::Tuple(vec![Value::Int(code), Value::Int(5 - code)]));
        // What comes in may be packed too.
        let packed = tensor::encode(&gradient, Compression::Float16).unwrap();
        let asked = request(&uids(0, 4), vec![raw(&hidden), packed, prompt.clone()], &[codecs]);
        let found = unary(&rpc, peer, &asked).await.unwrap();
        assert_eq!([0, 1].map(|nth| i64::from(found[nth].compression)), [code, 5 - code]);
        let largest = wanted[0].iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let found = plain(&found[0]).to_f32();
        let apart = found.iter().zip(&wanted[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= tolerance * largest, "codec {code}: {apart} of {largest}");
    }
    for (count, prompt, words) in [
        (1, Some(prompt), "output_compression should have 2 elements"),
        (2, None, "output_compression should have 1 elements"),
    ] {
        let codecs = ("output_compression", Value::Tuple(vec![Value::Int(0); count]));
        let tensors = vec![raw(&hidden), raw(&gradient), prompt.unwrap_or_else(nobody)];
        let fault = unary(&rpc, peer, &request(&uids(0, 4), tensors, &[codecs])).await.unwrap_err();
        assert!(fault.context().contains("AssertionError") && fault.context().contains(words), "{fault}");
    }
}

#[tokio::test]
async fn gradients_that_cannot_be_are_refused() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let all = uids(0, 4);
    let good = || tensor_of(&[2, 4, 8], Dtype::F32);
    let prompt = |sides: &[u32]| tensor_of(sides, Dtype::F32);
    let short = Tensor { buffer: Bytes::from_static(&[0; 12]), ..good() };
    let huge = Tensor { size: vec![u32::MAX, u32::MAX, 8], ..tensor::dummy(Dtype::F32) };
    let wild = Tensor { size: vec![4, 2, u32::MAX, 8], ..tensor::dummy(Dtype::F32) };
    let adapter = ("active_adapter", Value::from("lora"));
    for (uid, tensors, extra, words) in [
        (&*all, vec![], &[][..], "not enough values to unpack (expected at least 3, got 0)"),
        (&all, vec![good(), good()], &[], "not enough values to unpack (expected at least 3, got 2)"),
        ("", vec![good(), good(), nobody()], &[], "User did not provide any uids"),
        ("toy-petals.4", vec![good(), good(), nobody()], &[], "Remote peer does not serve toy-petals.4"),
        (&all, vec![good(), good(), nobody()], &[adapter], "adapter lora not found"),
        (&all, vec![good(), good(), nobody()], &[("points", Value::Nil)], "points must be a number"),
        (&all, vec![good(), tensor_of(&[2, 3, 8], Dtype::F32), nobody()], &[], "grad_outputs of shape [2, 3, 8]"),
        (&all, vec![good(), tensor_of(&[8, 8], Dtype::F32), nobody()], &[], "grad_outputs of shape [8, 8]"),
        (&all, vec![good(), tensor_of(&[2, 4, 8], Dtype::I64), nobody()], &[], "floating type, got torch.int64"),
        (&all, vec![tensor_of(&[2, 4, 9], Dtype::F32), good(), nobody()], &[], "hidden states of 9 numbers"),
        (&all, vec![tensor_of(&[8, 8], Dtype::F32), good(), nobody()], &[], "3d tensor"),
        (&all, vec![tensor_of(&[0, 4, 8], Dtype::F32), good(), nobody()], &[], "no rows"),
        (&all, vec![good(), short.clone(), nobody()], &[], "does not fit shape and type"),
        (&all, vec![short, good(), nobody()], &[], "does not fit shape and type"),
        (&all, vec![good(), good(), prompt(&[3, 2, 1, 8])], &[], "Received 3 prompts for 4 backends"),
        (&all, vec![good(), good(), prompt(&[4, 3, 1, 8])], &[], "deep prompts of shape [4, 3, 1, 8]"),
        (&all, vec![good(), good(), prompt(&[4, 2, 5, 8])], &[], "deep prompts of shape [4, 2, 5, 8]"),
        (&all, vec![good(), good(), prompt(&[4, 2, 1, 9])], &[], "deep prompts of shape [4, 2, 1, 9]"),
        (&all, vec![good(), good(), prompt(&[4, 2, 8])], &[], "deep prompts must have 4 sides"),
        (&all, vec![good(), good(), tensor_of(&[4, 2, 1, 8], Dtype::I64)], &[], "must be of a floating type"),
        (&all, vec![good(), good(), wild], &[], "deep prompts of shape"),
        (&all, vec![huge.clone(), huge, nobody()], &[], "Task size greater than max_batch_size (2048)"),
        (
            &all,
            vec![tensor_of(&[3, 700, 8], Dtype::F32), tensor_of(&[3, 700, 8], Dtype::F32), nobody()],
            &[],
            "Task size greater than max_batch_size (2048)",
        ),
    ] {
        let asked = request(uid, tensors, extra);
        let fault = unary(&rpc, peer, &asked).await.expect_err(words);
        assert!(fault.context().contains(words), "{words:?} in {fault}");
        if !asked.tensors.is_empty() {
            let fault = streamed(&rpc, peer, &asked, 1 << 20).await.expect_err(words);
            assert!(fault.context().contains(words), "{words:?} in {fault}");
        }
    }
    assert_eq!(house.ledgers[0].running.load(SeqCst), 0);
}

/// Small requests may ask for much: one prompt for all rows of all blocks.
#[tokio::test]
async fn gradients_of_prompts_are_bounded() {
    let change = |config: corolla_swarm::server::ServerConfig| corolla_swarm::server::ServerConfig {
        limits: ServerLimits { max_batch: 1 << 21, ..config.limits },
        ..config
    };
    let house = House::with(&[(0, 4)], change).await;
    let (rpc, peer) = house.stranger(0).await;
    let states = || Tensor { size: vec![1 << 21, 1, 8], ..tensor::dummy(Dtype::F32) };
    let asked = request(&uids(0, 4), vec![states(), states(), tensor_of(&[4, 1, 1, 8], Dtype::F32)], &[]);
    let fault = unary(&rpc, peer, &asked).await.unwrap_err();
    assert!(fault.context().contains("gradients of prompts of shape [4, 2097152, 1, 8] are more than"), "{fault}");
    // Without prompts it gets as far as the numbers, which are missing.
    let asked = request(&uids(0, 4), vec![states(), states(), nobody()], &[]);
    assert!(unary(&rpc, peer, &asked).await.unwrap_err().context().contains("does not fit shape and type"));
}

#[tokio::test]
async fn who_hangs_up_stops_the_gradients() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let ledger = &house.ledgers[0];
    ledger.hang.store(true, SeqCst);
    let asked = request(&uids(0, 4), vec![raw(&states(1, 2, 1)), raw(&states(1, 2, 2)), nobody()], &[]);
    let (first, second) = (unary(&rpc, peer, &asked), streamed(&rpc, peer, &asked, 100));
    {
        let mut both = std::pin::pin!(futures_util::future::join(first, second));
        let running = until("both are under way", || ledger.running.load(SeqCst) == 2);
        tokio::select! {
            _ = &mut both => panic!("an answer to a pass that hangs"),
            () = running => {}
        }
    }
    until("nothing is computed", || ledger.running.load(SeqCst) == 0).await;
    ledger.hang.store(false, SeqCst);
    check(&unary(&rpc, peer, &asked).await.unwrap(), &wanted(&states(1, 2, 1), &states(1, 2, 2), None).await);
}

/// More passes than run at a time wait for each other, and one that finds the cache full for a session to end.
#[tokio::test]
async fn gradients_wait_for_their_turn_and_for_room() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let (hidden, gradient) = (states(1, 40, 1), states(1, 40, 2));
    let asked = request(&uids(0, 4), vec![raw(&hidden), raw(&gradient), nobody()], &[]);
    let wanted = wanted(&hidden, &gradient, None).await;
    for found in join_all((0..12).map(|_| unary(&rpc, peer, &asked))).await {
        check(&found.unwrap(), &wanted);
    }

    let mut session = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let opened = metadata(&[opening(i64::try_from(CACHE).unwrap())]);
    ask(&mut session, step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, opened)).await.unwrap();
    let mut waiting = std::pin::pin!(unary(&rpc, peer, &asked));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    drop(session);
    check(&waiting.await.unwrap(), &wanted);
    until("all is free again", || house.ledgers[0].open.load(SeqCst) == 0).await;
}

/// Where nothing gets free, the refusal says what is missing.
#[tokio::test]
async fn gradients_without_room_are_refused_in_time() {
    let change = |config: corolla_swarm::server::ServerConfig| corolla_swarm::server::ServerConfig {
        limits: ServerLimits { request: Duration::from_secs(2), step: Duration::from_secs(60), ..config.limits },
        ..config
    };
    let house = House::with(&[(0, 4)], change).await;
    let (rpc, peer) = house.stranger(0).await;
    let mut session = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let opened = metadata(&[opening(i64::try_from(CACHE).unwrap())]);
    ask(&mut session, step_request(&uids(0, 4), raw(&states(1, 1, 1)), None, opened)).await.unwrap();
    let asked = request(&uids(0, 4), vec![raw(&states(1, 9, 1)), raw(&states(1, 9, 2)), nobody()], &[]);
    for fault in [unary(&rpc, peer, &asked).await.unwrap_err(), streamed(&rpc, peer, &asked, 100).await.unwrap_err()] {
        assert!(fault.context().contains("Could not allocate"), "{fault}");
    }
}
