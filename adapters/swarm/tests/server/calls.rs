//! What the methods answer, call by call, where our own client does not ask for it: prompts, reordered rows, rollbacks,
//! codecs, and the texts of refusals.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::PortError,
};
use corolla_swarm::{
    rpc::{Rpc, RpcStream},
    transport::PeerId,
    wire::{
        inference::{
            RPC_FORWARD, RPC_FORWARD_STREAM, RPC_INFERENCE, RPC_INFO, forward_pieces, forward_request, info_request,
            parse_hidden, parse_info, step_request,
        },
        msgpack::Value,
        proto::{self, Compression, ExpertRequest, ExpertResponse, Tensor},
        server::block_uids,
        serving::RPC_PUSH,
        tensor::{self, Dtype, Joiner},
    },
};

use crate::{BLOCKS, CACHE, House, PREFIX, WIDTH, blocks::Blocks, states};

pub(crate) const WAIT: Duration = Duration::from_secs(10);

pub(crate) fn raw(hidden: &Hidden) -> Tensor {
    tensor::encode(hidden, Compression::None).unwrap()
}

pub(crate) fn metadata(extra: &[(&str, Value)]) -> Bytes {
    let entries = extra.iter().map(|(key, value)| (*key, value.clone()));
    Value::map(entries).encode().into()
}

pub(crate) fn opening(max_length: i64) -> (&'static str, Value) {
    ("max_length", Value::Int(max_length))
}

pub(crate) fn uids(start: usize, end: usize) -> String {
    block_uids(PREFIX, start..end)
}

/// One step; the answer's tensor.
pub(crate) async fn ask(stream: &mut RpcStream, request: ExpertRequest) -> Result<Tensor, PortError> {
    let reply = stream.ask(proto::encode(&request), 1 << 20, WAIT).await?.expect("an answer");
    let mut response: ExpertResponse = proto::decode(reply).unwrap();
    assert_eq!(response.tensors.len(), 1);
    Ok(response.tensors.remove(0))
}

pub(crate) fn plain(tensor: &Tensor) -> Hidden {
    tensor::decode(tensor, tensor::Limits::default()).unwrap().to_hidden().unwrap()
}

/// The text of a refused first message.
pub(crate) async fn refused(rpc: &Rpc, peer: PeerId, request: ExpertRequest) -> String {
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    ask(&mut stream, request).await.expect_err("a refusal").context().to_owned()
}

pub(crate) fn prompts(blocks: usize, positions: usize) -> Tensor {
    let numbers: Vec<u8> = (0..blocks * positions * WIDTH).flat_map(|i| ((i % 5) as f32).to_le_bytes()).collect();
    let size = [blocks, 1, positions, WIDTH].map(|side| side as u32).to_vec();
    Tensor { buffer: numbers.into(), size, ..tensor::dummy(Dtype::F32) }
}

/// What blocks with prompts between them should give.
fn prompted(hidden: &Hidden, prompts: &Tensor) -> Hidden {
    let all = tensor::decode(prompts, tensor::Limits::default()).unwrap().to_f64();
    let positions = prompts.size[2] as usize;
    let mut hidden = hidden.clone();
    for (block, prompt) in all.chunks(positions * WIDTH).enumerate() {
        let mut numbers = hidden.to_f32();
        let row = hidden.seq() * WIDTH;
        for states in numbers.chunks_mut(row) {
            states.iter_mut().zip(prompt).for_each(|(state, add)| *state += *add as f32);
        }
        let shape = (hidden.batch(), hidden.seq(), WIDTH);
        let range = BlockRange::new(block, block + 1).unwrap();
        hidden = Blocks::new(range).step(&Hidden::from_f32(shape, &numbers).unwrap());
    }
    hidden
}

#[tokio::test]
async fn a_server_says_what_it_is() {
    let house = House::new(&[(1, 3)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let info = parse_info(rpc.unary(peer, RPC_INFO, info_request(""), WAIT).await.unwrap()).unwrap();
    assert_eq!((info.cache_tokens_available, info.dht_client_mode), (Some(2 * CACHE as u64), Some(false)));
    assert!(info.inference_schema.is_empty());
    let block = info_request(&uids(2, 3));
    let info = parse_info(rpc.unary(peer, RPC_INFO, block, WAIT).await.unwrap()).unwrap();
    assert_eq!((info.width(), info.dtype(), info.compression()), (Some(8), Some(Dtype::F32), Compression::None));
    assert_eq!((info.inference_schema.len(), info.forward_schema.len(), info.outputs_schema.len()), (3, 1, 1));
    for stranger in ["toy-petals.0", "toy-petals.3", "other.1", "toy-petals.x", "toy-petals"] {
        let fault = rpc.unary(peer, RPC_INFO, info_request(stranger), WAIT).await.unwrap_err();
        assert!(fault.context().contains(&format!("Remote peer does not serve {stranger}")), "{fault}");
    }
}

#[tokio::test]
async fn a_session_may_go_back_and_reorder_its_rows() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let (begin, rest) = (states(2, 3, 1), states(2, 2, 2));
    let first = step_request(&uids(0, 4), raw(&begin), None, metadata(&[opening(20)]));
    let all = BlockRange::first(BLOCKS);
    let mut local = Blocks::new(all);
    assert_eq!(plain(&ask(&mut stream, first).await.unwrap()), local.step(&begin));
    // nothing is computed for no positions
    let empty = Tensor { size: vec![2, 0, WIDTH as u32], ..tensor::dummy(Dtype::F32) };
    let nothing = ask(&mut stream, step_request(&uids(0, 4), empty, None, Bytes::new())).await.unwrap();
    assert_eq!(nothing.size, [2, 0, 8]);

    let astray = step_request(&uids(0, 4), raw(&states(2, 4, 3)), None, Bytes::new());
    ask(&mut stream, astray).await.unwrap();
    let back = metadata(&[("start_from_position", Value::Int(3))]);
    let swapped = step_request(&uids(0, 4), raw(&rest), Some(&[1, 1]), back);
    let answer = plain(&ask(&mut stream, swapped).await.unwrap());
    let row = |hidden: &Hidden, row| hidden.rows(row, row + 1).unwrap();
    for nth in 0..2 {
        let mut local = Blocks::new(all);
        local.step(&row(&begin, 1));
        assert_eq!(row(&answer, nth), local.step(&row(&rest, nth)), "row {nth}");
    }
    let ahead = metadata(&[("start_from_position", Value::Int(9))]);
    let fault = ask(&mut stream, step_request(&uids(0, 4), raw(&rest), None, ahead)).await.unwrap_err();
    assert!(fault.context().contains("start_from_position=9"), "{fault}");
}

#[tokio::test]
async fn prompts_go_between_the_blocks() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let (hidden, prompt) = (states(2, 4, 1), prompts(4, 2));
    let wanted = prompted(&hidden, &prompt);
    let mut request = forward_request(&uids(0, 4), raw(&hidden), None);
    request.tensors[1] = prompt.clone();
    let reply = rpc.unary(peer, RPC_FORWARD, proto::encode(&request), WAIT).await.unwrap();
    assert_eq!(parse_hidden(reply, &hidden).unwrap(), wanted);

    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let mut step = step_request(&uids(0, 4), raw(&hidden), None, metadata(&[opening(9)]));
    step.tensors[1] = prompt.clone();
    assert_eq!(plain(&ask(&mut stream, step).await.unwrap()), wanted);

    for (wrong, words) in [(prompts(3, 2), "Received 3 prompts for 4"), (prompts(4, 5), "deep prompts of shape")] {
        request.tensors[1] = wrong;
        let fault = rpc.unary(peer, RPC_FORWARD, proto::encode(&request), WAIT).await.unwrap_err();
        assert!(fault.context().contains(words), "{fault}");
    }
}

#[tokio::test]
async fn a_pass_in_pieces_equals_one_in_one_piece() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let hidden = states(3, 16, 1);
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&hidden);
    let half = tensor::encode(&hidden, Compression::Float16).unwrap();
    let request = forward_request(&uids(0, 4), half, None);
    let reply = rpc.unary(peer, RPC_FORWARD, proto::encode(&request), WAIT).await.unwrap();
    assert_eq!(parse_hidden(reply, &hidden).unwrap(), wanted, "small whole numbers are exact in half precision");

    let request = forward_request(&uids(0, 4), raw(&hidden), None);
    let mut stream = rpc.stream(peer, RPC_FORWARD_STREAM).await.unwrap();
    for piece in forward_pieces(&request, 100) {
        stream.send(proto::encode(&piece)).await.unwrap();
    }
    stream.finish().await.unwrap();
    let mut joiner = Joiner::new(1, 1 << 20);
    while let Some(reply) = stream.next(WAIT).await.unwrap() {
        let response: ExpertResponse = proto::decode(reply).unwrap();
        response.tensors.into_iter().for_each(|piece| joiner.push(piece).unwrap());
    }
    assert_eq!(plain(&joiner.finish()[0]), wanted);
}

#[tokio::test]
async fn the_caller_chooses_the_codec_of_a_pass() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let hidden = states(1, 5, 1);
    let wanted = Blocks::new(BlockRange::first(BLOCKS)).step(&hidden).to_f32();
    let largest = wanted.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (code, tolerance) in [(0, 0.0), (1, 2e-3), (2, 1e-3), (3, 0.1), (4, 0.1), (5, 0.02)] {
        let mut request = forward_request(&uids(0, 4), raw(&hidden), None);
        let codecs = Value::Tuple(vec![Value::Int(code)]);
        request.metadata = metadata(&[("output_compression", codecs)]);
        let reply = rpc.unary(peer, RPC_FORWARD, proto::encode(&request), WAIT).await.unwrap();
        let response: ExpertResponse = proto::decode(reply).unwrap();
        assert_eq!(i64::from(response.tensors[0].compression), code);
        let found = plain(&response.tensors[0]).to_f32();
        let apart = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= tolerance * largest, "codec {code}: {apart} of {largest}");
    }
}

/// Clients of Petals 2.2 have every step pushed, those that reorder rows too. The next server computes the push, and must
/// not be told of the order of another step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_carries_the_order_of_its_own_step() {
    let house = House::new(&[(0, 2), (2, 4)]).await;
    let ((rpc, first), (_, second)) = (house.stranger(0).await, house.stranger(1).await);
    rpc.host().add_address(second, house.servers[1].addresses()[0].parse().unwrap()).await;
    let mut streams = [
        rpc.stream(first, RPC_INFERENCE).await.unwrap(),
        rpc.stream(second, RPC_INFERENCE).await.unwrap().answered_early(),
    ];
    let name = |session: &str, step: &str| vec![("session_id", Value::from(session)), ("step_id", Value::from(step))];
    let opened = |session: &str| metadata(&[name(session, "1"), vec![opening(9)]].concat());
    let (begin, rest) = (states(2, 3, 1), states(2, 1, 2));
    let half = ask(&mut streams[0], step_request(&uids(0, 2), raw(&begin), None, opened("a"))).await.unwrap();
    ask(&mut streams[1], step_request(&uids(2, 4), half, None, opened("b"))).await.unwrap();

    let peer = second.to_base58();
    let next = Value::Tuple(vec![Value::from(peer.as_str()), Value::from("b"), 2.into(), 4.into()]);
    let pushed = metadata(&[name("a", "2"), vec![("next_servers", Value::Array(vec![next]))]].concat());
    ask(&mut streams[0], step_request(&uids(0, 2), raw(&rest), Some(&[1, 0]), pushed)).await.unwrap();
    // The client's own copy never comes: what is answered is the push.
    let reply = streams[1].next(WAIT).await.unwrap().expect("an answer to the push");
    let response: ExpertResponse = proto::decode(reply).unwrap();
    let answer = plain(&response.tensors[0]);
    for (row, was) in [1, 0].into_iter().enumerate() {
        let mut local = Blocks::new(BlockRange::first(BLOCKS));
        local.step(&begin.rows(was, was + 1).unwrap());
        let wanted = local.step(&rest.rows(row, row + 1).unwrap());
        assert_eq!(answer.rows(row, row + 1).unwrap(), wanted, "row {row}");
    }
}

/// A push that is of no use is left out. One that fails when the cache has begun to change ends the session, whose position
/// nobody knows any more.
#[tokio::test]
async fn a_push_that_fails_half_way_ends_the_session() {
    let house = House::new(&[(0, 4)]).await;
    let (rpc, peer) = house.stranger(0).await;
    let push = async |hidden: Tensor, rows: Option<&[i64]>| {
        let name = metadata(&[("session_id", Value::from("s"))]);
        let request = proto::encode(&step_request(&uids(0, 4), hidden, rows, name));
        rpc.unary(peer, RPC_PUSH, request, WAIT).await.unwrap();
    };
    let mut stream = rpc.stream(peer, RPC_INFERENCE).await.unwrap();
    let (begin, rest) = (states(2, 3, 1), states(2, 1, 2));
    let opened = metadata(&[opening(9), ("session_id", Value::from("s"))]);
    ask(&mut stream, step_request(&uids(0, 4), raw(&begin), None, opened)).await.unwrap();
    push(raw(&states(1, 1, 1)), None).await;
    push(raw(&states(2, 9, 1)), None).await;
    let mut local = Blocks::new(BlockRange::first(BLOCKS));
    local.step(&begin);
    let answer = ask(&mut stream, step_request(&uids(0, 4), raw(&rest), None, Bytes::new())).await.unwrap();
    assert_eq!(plain(&answer), local.step(&rest));

    house.ledgers[0].fail.store(true, SeqCst);
    push(raw(&rest), Some(&[1, 0])).await;
    let fault = stream.next(WAIT).await.unwrap_err();
    assert!(fault.context().contains("the blocks are broken"), "{fault}");
}
