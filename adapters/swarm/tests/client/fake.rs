//! A server that speaks the protocol over a host of ours, and misbehaves on demand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::model::{ElementType, Hidden};
use corolla_swarm::{
    transport::{Host, HostConfig, PeerId, Stream},
    wire::{
        frame::{
            StreamDecoder, StreamFrame, UnaryDecoder, UnaryFrame, encode_stream_error, encode_stream_message,
            encode_unary_reply,
        },
        inference::{RPC_INFERENCE, RPC_INFO},
        key::DhtId,
        msgpack::{EXT_DESCRIPTOR, Value},
        proto::{
            self, Compression, ExpertInfo, ExpertRequest, ExpertResponse, FindRequest, FindResponse, FindResult,
            NodeInfo, PingResponse, ResultType, Tensor,
        },
        record::{Dictionary, Entry},
        server::{ServerRecord, ServerState, block_key},
        tensor,
    },
};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) const PREFIX: &str = "fake-petals";
pub(crate) const BLOCKS: usize = 4;
pub(crate) const WIDTH: usize = 8;

/// What the server does with the next steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    Honest,
    /// What came goes back, nothing computed.
    Echo,
    /// A reply of another shape.
    WrongShape,
    /// A reply with a NaN.
    NotANumber,
    /// A reply of two tensors.
    Two,
    /// Bytes that are no message.
    Rubbish,
    /// No reply.
    Stall,
    /// An error of Python's.
    Fault(&'static str),
    /// The stream ends without a word.
    HangUp,
}

/// What the server did.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Sessions that live.
    pub(crate) open: AtomicUsize,
    /// Sessions ever.
    pub(crate) opened: AtomicUsize,
    /// Positions computed.
    pub(crate) positions: AtomicUsize,
}

/// The running server.
pub(crate) struct Fake {
    pub(crate) host: Host,
    pub(crate) manner: Arc<Mutex<Manner>>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Fake {
    /// A server of all blocks that computes in `dtype` and is its own DHT.
    pub(crate) async fn start(dtype: ElementType) -> Self {
        Self::start_wide(dtype, WIDTH).await
    }

    /// As `start`, for hidden states of `width` numbers.
    pub(crate) async fn start_wide(dtype: ElementType, width: usize) -> Self {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let host = Host::start(HostConfig { listen, ..HostConfig::default() }).await.unwrap();
        let fake = Self { host, manner: Arc::new(Mutex::new(Manner::Honest)), ledger: Arc::default() };
        let me = fake.host.peer_id();
        fake.serve("DHTProtocol.rpc_ping", |_| proto::encode(&pong())).await;
        fake.serve("DHTProtocol.rpc_find", move |request| find(&request, me)).await;
        fake.serve(RPC_INFO, move |_| info(dtype, width)).await;
        let mut incoming = fake.host.accept(RPC_INFERENCE).await.unwrap();
        let (manner, ledger) = (fake.manner.clone(), fake.ledger.clone());
        tokio::spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                tokio::spawn(session(stream, manner.clone(), ledger.clone(), dtype));
            }
        });
        fake
    }

    pub(crate) fn address(&self) -> String {
        format!("{}/p2p/{}", self.host.listen_addresses()[0], self.host.peer_id())
    }

    pub(crate) fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    async fn serve(&self, method: &str, answer: impl Fn(Bytes) -> Bytes + Send + Sync + 'static) {
        let mut incoming = self.host.accept(method).await.unwrap();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Some((_, mut stream)) = incoming.next().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut decoder = UnaryDecoder::new(1 << 20);
                    let mut chunk = [0; 4096];
                    while let Ok(count) = stream.read(&mut chunk).await {
                        decoder.push(&chunk[..count]);
                        if let Some(UnaryFrame::Request { call_id, data, .. }) = decoder.next().unwrap() {
                            let reply = encode_unary_reply(Bytes::copy_from_slice(&call_id), Ok(answer(data))).unwrap();
                            stream.write_all(&reply).await.unwrap();
                            let _ = stream.close().await;
                            return;
                        }
                        if count == 0 {
                            return;
                        }
                    }
                });
            }
        });
    }
}

pub(crate) fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

pub(crate) fn node() -> NodeInfo {
    NodeInfo { node_id: Bytes::from_static(&[7; 20]) }
}

pub(crate) fn pong() -> PingResponse {
    PingResponse { peer: Some(node()), dht_time: now(), available: false }
}

fn find(request: &Bytes, me: PeerId) -> Bytes {
    let request: FindRequest = proto::decode(request.clone()).unwrap();
    let result = |key: &Bytes| {
        let known = (0..BLOCKS).any(|block| DhtId::of_key(&block_key(PREFIX, block)).0 == key[..]);
        let mut record = ServerRecord::new(ServerState::Online, 10.0);
        (record.start_block, record.end_block) = (Some(0), Some(BLOCKS));
        record.cache_tokens_left = Some(4096);
        let mut dictionary = Dictionary::default();
        let value = record.encode().into();
        dictionary.entries.insert(me.to_base58(), Entry { value, expiration: now() + 100.0 });
        dictionary.entries.insert("rubbish".into(), Entry { value: Bytes::from_static(b"?"), expiration: now() + 1e9 });
        let value = if known { dictionary.encode().into() } else { Bytes::new() };
        let found = if known { ResultType::Dictionary } else { ResultType::NotFound };
        FindResult { r#type: found.into(), value, expiration_time: now() + 100.0, ..FindResult::default() }
    };
    proto::encode(&FindResponse { results: request.keys.iter().map(result).collect(), peer: Some(node()) })
}

fn info(dtype: ElementType, width: usize) -> Bytes {
    info_of(dtype, width, "2.2.0")
}

pub(crate) fn info_of(dtype: ElementType, width: usize, version: &str) -> Bytes {
    let name = format!("torch.{}", tensor::Dtype::from(dtype).name());
    let size = Value::Tuple(vec![Value::Nil, 1.into(), 2048.into(), width.into()]);
    let descriptor = Value::map([
        ("size", size),
        ("dtype", Value::from(name.as_str())),
        ("layout", Value::from("torch.strided")),
        ("requires_grad", Value::Bool(false)),
        ("pin_memory", Value::Bool(false)),
        ("compression", Value::Int(0)),
        ("device_type", Value::Nil),
        ("device_index", Value::Nil),
    ]);
    let descriptor = Value::Ext(EXT_DESCRIPTOR, descriptor.encode().into());
    let schema = Value::Tuple(vec![Value::Tuple(vec![descriptor]), Value::Map(vec![])]);
    let map = Value::map([("version", Value::from(version)), ("inference_schema", schema)]);
    proto::encode(&ExpertInfo { serialized_info: map.encode().into() })
}

/// Counts a session as long as it lives.
struct Open(Arc<Ledger>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

async fn session(mut stream: Stream, manner: Arc<Mutex<Manner>>, ledger: Arc<Ledger>, dtype: ElementType) {
    let mut decoder = StreamDecoder::new(64 << 20);
    let mut chunk = vec![0; 65536];
    let mut history = History::default();
    let mut open = None;
    loop {
        while let Some(StreamFrame::Message(message)) = decoder.next().unwrap() {
            let request: ExpertRequest = proto::decode(message).unwrap();
            if request.tensors.is_empty() {
                return;
            }
            if open.is_none() {
                ledger.opened.fetch_add(1, SeqCst);
                ledger.open.fetch_add(1, SeqCst);
                open = Some(Open(ledger.clone()));
            }
            let manner = *manner.lock().unwrap();
            let tensor = request.tensors.into_iter().next().unwrap();
            let reply = match answer(manner, &tensor, &mut history, dtype, &ledger) {
                Some(reply) => reply,
                None if manner == Manner::Stall => continue,
                None => return,
            };
            if stream.write_all(&reply).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            if matches!(manner, Manner::Fault(_)) {
                let _ = stream.close().await;
                return;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&chunk[..count]),
        }
    }
}

/// What comes after a position is the sum of `(position + 1) * input` so far: every lost, doubled or reordered position
/// shows.
#[derive(Default)]
pub(crate) struct History {
    positions: usize,
    sums: Vec<f32>,
}

impl History {
    pub(crate) fn step(&mut self, hidden: &Hidden) -> Hidden {
        let (batch, seq, width) = (hidden.batch(), hidden.seq(), hidden.width());
        self.sums.resize(batch * width, 0.0);
        let mut numbers = hidden.to_f32();
        for row in 0..batch {
            for at in 0..seq {
                for i in 0..width {
                    let number = &mut numbers[(row * seq + at) * width + i];
                    let sum = &mut self.sums[row * width + i];
                    *sum += (self.positions + at + 1) as f32 * *number;
                    *number = *sum;
                }
            }
        }
        self.positions += seq;
        Hidden::from_f32((batch, seq, width), &numbers).unwrap()
    }
}

fn answer(
    manner: Manner,
    tensor: &Tensor,
    history: &mut History,
    dtype: ElementType,
    ledger: &Ledger,
) -> Option<Vec<u8>> {
    let message = |tensors: Vec<Tensor>| {
        encode_stream_message(&proto::encode(&ExpertResponse { tensors, ..ExpertResponse::default() }))
    };
    assert_eq!(tensor.dtype, tensor::Dtype::from(dtype).name(), "a server gets its own type");
    let honest = if tensor.size[1] == 0 || manner == Manner::Echo {
        tensor.clone()
    } else {
        let hidden = tensor::decode(tensor, tensor::Limits::default()).unwrap().to_hidden().unwrap();
        assert!(hidden.batch() * hidden.seq() <= 1024, "a message every server takes");
        ledger.positions.fetch_add(hidden.seq(), SeqCst);
        narrowed(&history.step(&hidden), dtype)
    };
    match manner {
        Manner::Honest | Manner::Echo => Some(message(vec![honest])),
        Manner::WrongShape => {
            let size = vec![honest.size[0], honest.size[2], honest.size[1]];
            Some(message(vec![Tensor { size, ..honest }]))
        }
        Manner::NotANumber => {
            let mut buffer = honest.buffer.to_vec();
            let end = buffer.len();
            buffer[end - 2..].fill(0xff);
            Some(message(vec![Tensor { buffer: buffer.into(), ..honest }]))
        }
        Manner::Two => Some(message(vec![honest.clone(), honest])),
        Manner::Rubbish => Some(encode_stream_message(b"\xff\xff\xff")),
        Manner::Fault(text) => Some(encode_stream_error(text)),
        Manner::Stall | Manner::HangUp => None,
    }
}

fn narrowed(hidden: &Hidden, dtype: ElementType) -> Tensor {
    if dtype == ElementType::F32 {
        return tensor::encode(hidden, Compression::None).unwrap();
    }
    let data: Vec<u8> = hidden.to_f32().iter().flat_map(|n| n.to_le_bytes()[2..].to_vec()).collect();
    let shape = (hidden.batch(), hidden.seq(), hidden.width());
    tensor::encode(&Hidden::new(shape, ElementType::Bf16, data.into()).unwrap(), Compression::None).unwrap()
}

/// Waits until the server has that many live sessions.
pub(crate) async fn until_open(ledger: &Ledger, wanted: usize) {
    let waited = async {
        while ledger.open.load(SeqCst) != wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waited).await.expect("the server's sessions");
}
