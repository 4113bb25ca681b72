//! A server that is honest until its script says otherwise. It announces itself as fast and roomy.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use corolla_domain::model::Hidden;
use corolla_swarm::{
    transport::{Host, HostConfig, PeerId, Stream},
    wire::{
        frame::{StreamDecoder, StreamFrame, UnaryDecoder, UnaryFrame},
        inference::{RPC_INFERENCE, RPC_INFO},
        key::DhtId,
        msgpack::{EXT_DESCRIPTOR, Value},
        proto::{
            self, Compression, ExpertInfo, ExpertRequest, FindRequest, FindResponse, FindResult, NodeInfo,
            PingResponse, ResultType, Tensor,
        },
        record::{Dictionary, Entry},
        server::{ServerRecord, ServerState, block_key},
        tensor,
    },
};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    act::{Act, Script, reply, unary},
    fake::{BLOCKS, History, PREFIX, WIDTH},
};

pub(crate) const KAD: &str = "/ipfs/kad/1.0.0";
const PING: &str = "DHTProtocol.rpc_ping";
const FIND: &str = "DHTProtocol.rpc_find";

/// What the villain does instead of answering; honest where there is nothing.
#[derive(Default)]
pub(crate) struct Scripts {
    pub(crate) ping: Option<Script<Bytes>>,
    pub(crate) find: Option<Script<FindResponse>>,
    pub(crate) info: Option<Script<Bytes>>,
    /// After so many honest messages of a session.
    pub(crate) step: Option<(usize, Script<Tensor>)>,
    /// For FIND_NODE; its honest answer is nothing.
    pub(crate) node: Option<Script<()>>,
}

pub(crate) struct Villain {
    pub(crate) host: Host,
    pub(crate) scripts: Arc<Mutex<Scripts>>,
    /// Calls of `rpc_find` and FIND_NODE.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Villain {
    pub(crate) async fn start() -> Self {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let host = Host::start(HostConfig { listen, ..HostConfig::default() }).await.unwrap();
        let villain = Self { host, scripts: Arc::default(), asked: Arc::default() };
        for method in [PING, FIND, RPC_INFO, RPC_INFERENCE, KAD] {
            let mut incoming = villain.host.accept(method).await.unwrap();
            let (me, scripts, asked) = (villain.host.peer_id(), villain.scripts.clone(), villain.asked.clone());
            tokio::spawn(async move {
                while let Some((_, stream)) = incoming.next().await {
                    if method == FIND || method == KAD {
                        asked.fetch_add(1, SeqCst);
                    }
                    tokio::spawn(serve(method, stream, me, scripts.clone()));
                }
            });
        }
        villain
    }

    pub(crate) fn address(&self) -> String {
        format!("{}/p2p/{}", self.host.listen_addresses()[0], self.host.peer_id())
    }

    pub(crate) fn name(&self) -> String {
        self.host.peer_id().to_base58()
    }

    pub(crate) fn set(&self, scripts: Scripts) {
        *self.scripts.lock().unwrap() = scripts;
    }
}

async fn serve(method: &'static str, mut stream: Stream, me: PeerId, scripts: Arc<Mutex<Scripts>>) {
    if method == RPC_INFERENCE {
        return session(stream, scripts).await;
    }
    if method == KAD {
        let script = scripts.lock().unwrap().node.clone();
        let act = script.map_or(Act::End(Bytes::new()), |script| script(()));
        return drop(act.perform(&mut stream).await);
    }
    let Some(request) = request(&mut stream).await else { return };
    let act = {
        let scripts = scripts.lock().unwrap();
        let honest = |message: Bytes| Act::End(unary(message));
        match method {
            PING => scripts.ping.as_ref().map_or_else(|| honest(pong()), |script| script(pong())),
            FIND => {
                let found = find(&request, me);
                scripts.find.as_ref().map_or_else(|| honest(proto::encode(&found)), |script| script(found.clone()))
            }
            _ => scripts.info.as_ref().map_or_else(|| honest(info()), |script| script(info())),
        }
    };
    let _ = act.perform(&mut stream).await;
}

/// The request of a unary call.
async fn request(stream: &mut Stream) -> Option<Bytes> {
    let mut decoder = UnaryDecoder::new(1 << 20);
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        decoder.push(&chunk[..count]);
        if let Some(UnaryFrame::Request { data, .. }) = decoder.next().unwrap() {
            return Some(data);
        }
    }
}

async fn session(mut stream: Stream, scripts: Arc<Mutex<Scripts>>) {
    let mut decoder = StreamDecoder::new(64 << 20);
    let (mut chunk, mut history, mut honest) = (vec![0; 65536], History::default(), 0);
    loop {
        while let Some(StreamFrame::Message(message)) = decoder.next().unwrap() {
            let request: ExpertRequest = proto::decode(message).unwrap();
            let Some(input) = request.tensors.into_iter().next() else { return };
            let output = step(input, &mut history);
            let script = scripts.lock().unwrap().step.clone();
            match script.filter(|(after, _)| honest >= *after) {
                Some((_, script)) => return drop(script(output).perform(&mut stream).await),
                None if stream.write_all(&reply(vec![output])).await.is_err() => return,
                None => drop(stream.flush().await),
            }
            honest += 1;
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&chunk[..count]),
        }
    }
}

fn step(input: Tensor, history: &mut History) -> Tensor {
    if input.size[1] == 0 {
        return input;
    }
    let hidden: Hidden = tensor::decode(&input, tensor::Limits::default()).unwrap().to_hidden().unwrap();
    tensor::encode(&history.step(&hidden), Compression::None).unwrap()
}

pub(crate) fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

pub(crate) fn node() -> NodeInfo {
    NodeInfo { node_id: Bytes::from_static(&[9; 20]) }
}

fn pong() -> Bytes {
    proto::encode(&PingResponse { peer: Some(node()), dht_time: now(), available: false })
}

/// The record of a fast server of all blocks.
pub(crate) fn announcement() -> ServerRecord {
    let mut record = ServerRecord::new(ServerState::Online, 1000.0);
    (record.start_block, record.end_block) = (Some(0), Some(BLOCKS));
    record.inference_rps = Some(1e4);
    record.cache_tokens_left = Some(1 << 30);
    record
}

fn find(request: &Bytes, me: PeerId) -> FindResponse {
    let request: FindRequest = proto::decode(request.clone()).unwrap();
    let mut dictionary = Dictionary::default();
    let value = announcement().encode().into();
    dictionary.entries.insert(me.to_base58(), Entry { value, expiration: now() + 100.0 });
    let result = |key: &Bytes| {
        let known = (0..BLOCKS).any(|block| DhtId::of_key(&block_key(PREFIX, block)).0 == key[..]);
        let value = if known { dictionary.encode().into() } else { Bytes::new() };
        let found = if known { ResultType::Dictionary } else { ResultType::NotFound };
        FindResult { r#type: found.into(), value, expiration_time: now() + 100.0, ..FindResult::default() }
    };
    FindResponse { results: request.keys.iter().map(result).collect(), peer: Some(node()) }
}

/// What an honest server says of itself.
fn info() -> Bytes {
    let map = Value::map([("version", Value::from("2.2.0")), ("inference_schema", schema(WIDTH))]);
    proto::encode(&ExpertInfo { serialized_info: map.encode().into() })
}

/// The schema of a server whose hidden states have so many numbers.
pub(crate) fn schema(width: usize) -> Value {
    let size = Value::Tuple(vec![Value::Nil, 1.into(), 2048.into(), width.into()]);
    let descriptor = Value::map([("size", size), ("dtype", Value::from("torch.float32"))]);
    let descriptor = Value::Ext(EXT_DESCRIPTOR, descriptor.encode().into());
    Value::Tuple(vec![Value::Tuple(vec![descriptor]), Value::Map(vec![])])
}
