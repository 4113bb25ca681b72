//! Servers that share the blocks of a model between them. They push, and compute without a cache.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use corolla_domain::model::{BlockRange, ElementType};
use corolla_swarm::{
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, PeerId, Stream},
    wire::{
        frame::{UnaryDecoder, UnaryFrame, encode_unary_reply},
        inference::{RPC_FORWARD, RPC_FORWARD_STREAM, RPC_INFERENCE, RPC_INFO},
        key::DhtId,
        proto::{
            self, Compression, ExpertRequest, ExpertResponse, FindRequest, FindResponse, FindResult, ResultType, Tensor,
        },
        record::{Dictionary, Entry},
        server::{ServerRecord, ServerState, block_key},
        tensor,
    },
};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, future::BoxFuture};
use tokio::sync::{mpsc, watch};

use crate::{
    blocks::Blocks,
    fake::{BLOCKS, PREFIX, WIDTH, info_of, node, now, pong},
    seat,
};

pub(crate) const RPC_PUSH: &str = "TransformerConnectionHandler.rpc_push";

/// How a server pushes, and whether it answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    /// The push has arrived before the client has its answer.
    First,
    /// Pushes are kept until [`Server::deliver`].
    Late,
    /// Pushes at once, and never answers the client.
    Mute,
}

/// What a server did.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// Sessions that live.
    pub(crate) open: AtomicUsize,
    /// Steps that came from another server and were executed.
    pub(crate) from_push: AtomicUsize,
    /// Steps that came from the client and were executed.
    pub(crate) from_client: AtomicUsize,
    /// Copies that came when their step had been executed.
    pub(crate) doubles: AtomicUsize,
    pub(crate) unary: AtomicUsize,
    pub(crate) streamed: AtomicUsize,
}

/// What becomes of the answer to a forward pass; `None`: nothing is said.
pub(crate) type Twist = fn(Tensor) -> Option<Vec<Tensor>>;

/// One server.
pub(crate) struct Server {
    pub(crate) blocks: BlockRange,
    pub(crate) rpc: Rpc,
    pub(crate) deeds: Deeds,
    pub(crate) way: Mutex<Way>,
    pub(crate) twist: Mutex<Twist>,
    pub(crate) alive: watch::Sender<bool>,
    /// Where pushes for a session go.
    pub(crate) inboxes: Mutex<HashMap<String, mpsc::Sender<ExpertRequest>>>,
    /// Pushes that wait to be delivered.
    pub(crate) late: Mutex<Vec<(PeerId, ExpertRequest)>>,
}

impl Server {
    pub(crate) fn peer(&self) -> PeerId {
        self.rpc.host().peer_id()
    }

    pub(crate) fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    /// Ends its sessions and everything it is asked from now on.
    pub(crate) fn kill(&self) {
        self.alive.send_replace(false);
    }

    /// Sends what was kept; says how much that was.
    pub(crate) async fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let count = late.len();
        for (peer, request) in late {
            self.push(peer, request).await;
        }
        count
    }

    pub(crate) async fn push(&self, peer: PeerId, request: ExpertRequest) {
        self.rpc.unary(peer, RPC_PUSH, proto::encode(&request), Duration::from_secs(60)).await.unwrap();
    }

    fn take_push(&self, request: ExpertRequest) {
        let metadata = seat::Metadata::read(&request);
        assert!(metadata.pushed, "a push is marked as such");
        if let Some(inbox) = self.inboxes.lock().unwrap().get(&metadata.session_id) {
            let _ = inbox.try_send(request); // the session may have ended since
        }
    }

    /// The blocks of a request once, without a cache.
    pub(crate) fn forward(&self, request: &ExpertRequest) -> Option<Vec<Tensor>> {
        let hidden = tensor::decode(&request.tensors[0], tensor::Limits::default()).unwrap().to_hidden().unwrap();
        let output = Blocks::new(self.range(&request.uid)).step(&hidden);
        let twist = *self.twist.lock().unwrap();
        twist(tensor::encode(&output, Compression::None).unwrap())
    }

    /// The blocks that a request names.
    pub(crate) fn range(&self, uids: &str) -> BlockRange {
        let blocks: Vec<usize> = uids
            .split(' ')
            .map(|uid| uid.strip_prefix(PREFIX).unwrap().strip_prefix('.').unwrap().parse().unwrap())
            .collect();
        let range = BlockRange::new(blocks[0], blocks[blocks.len() - 1] + 1).unwrap();
        assert!(self.blocks.contains(range) && range.len() == blocks.len(), "{uids}");
        range
    }
}

/// The running servers; each is a node of their DHT.
pub(crate) struct Party(pub(crate) Vec<Arc<Server>>);

impl Party {
    /// A server for each run of blocks, with the version it announces.
    pub(crate) async fn start(members: &[(usize, usize, &'static str)]) -> Self {
        let mut servers = Vec::new();
        let mut records = Vec::new();
        for (start, end, version) in members {
            let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
            let host = Host::start(HostConfig { listen, ..HostConfig::default() }).await.unwrap();
            let mut record = ServerRecord::new(ServerState::Online, 10.0);
            (record.start_block, record.end_block) = (Some(*start), Some(*end));
            record.version = Some((*version).to_owned());
            records.push((host.peer_id().to_base58(), record));
            servers.push(Arc::new(Server {
                blocks: BlockRange::new(*start, *end).unwrap(),
                rpc: Rpc::new(host, RpcLimits::default()),
                deeds: Deeds::default(),
                way: Mutex::new(Way::First),
                twist: Mutex::new(|tensor| Some(vec![tensor])),
                alive: watch::Sender::new(true),
                inboxes: Mutex::default(),
                late: Mutex::default(),
            }));
        }
        let (party, records) = (Self(servers), Arc::new(records));
        for (server, (_, _, version)) in party.0.iter().zip(members) {
            for other in party.0.iter().filter(|other| other.peer() != server.peer()) {
                server.rpc.host().add_address(other.peer(), other.rpc.host().listen_addresses().remove(0)).await;
            }
            party.open(server, version, records.clone()).await;
        }
        party
    }

    async fn open(&self, server: &Arc<Server>, version: &'static str, records: Arc<Vec<(String, ServerRecord)>>) {
        let said = |bytes: Bytes| -> BoxFuture<'static, Option<Bytes>> { Box::pin(async move { Some(bytes) }) };
        serve(server, "DHTProtocol.rpc_ping", move |_, _| said(proto::encode(&pong()))).await;
        serve(server, "DHTProtocol.rpc_find", move |_, request| said(find(&request, &records))).await;
        serve(server, RPC_INFO, move |_, _| said(info_of(ElementType::F32, WIDTH, version))).await;
        serve(server, RPC_PUSH, |server, request| {
            server.take_push(proto::decode(request).unwrap());
            Box::pin(async { Some(Bytes::new()) })
        })
        .await;
        serve(server, RPC_FORWARD, |server, request| {
            server.deeds.unary.fetch_add(1, SeqCst);
            let tensors = server.forward(&proto::decode(request).unwrap());
            let reply = tensors.map(|tensors| proto::encode(&ExpertResponse { tensors, ..ExpertResponse::default() }));
            Box::pin(async { reply })
        })
        .await;
        accept(server, RPC_FORWARD_STREAM, |server, stream| Box::pin(seat::forward(server, stream))).await;
        accept(server, RPC_INFERENCE, |server, stream| Box::pin(seat::session(server, stream))).await;
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let address = |s: &Arc<Server>| format!("{}/p2p/{}", s.rpc.host().listen_addresses()[0], s.peer());
        self.0.iter().map(address).collect()
    }

    /// The server of that name.
    pub(crate) fn named(&self, peer: &str) -> &Server {
        self.0.iter().find(|server| server.peer().to_base58() == peer).unwrap()
    }

    pub(crate) fn count(&self, of: impl Fn(&Deeds) -> &AtomicUsize) -> Vec<usize> {
        self.0.iter().map(|server| of(&server.deeds).load(SeqCst)).collect()
    }
}

async fn accept(
    server: &Arc<Server>,
    method: &str,
    answer: impl Fn(Arc<Server>, Stream) -> BoxFuture<'static, ()> + Send + 'static,
) {
    let mut incoming = server.rpc.host().accept(method).await.unwrap();
    let server = server.clone();
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            if *server.alive.borrow() {
                tokio::spawn(answer(server.clone(), stream));
            }
        }
    });
}

async fn serve(
    server: &Arc<Server>,
    method: &str,
    answer: impl Fn(Arc<Server>, Bytes) -> BoxFuture<'static, Option<Bytes>> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    accept(server, method, move |server, mut stream| {
        let answer = answer.clone();
        Box::pin(async move {
            let (mut decoder, mut chunk) = (UnaryDecoder::new(8 << 20), vec![0; 65536]);
            while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                decoder.push(&chunk[..count]);
                let Some(UnaryFrame::Request { call_id, data, .. }) = decoder.next().unwrap() else { continue };
                let Some(reply) = answer(server.clone(), data).await else { continue };
                let reply = encode_unary_reply(Bytes::copy_from_slice(&call_id), Ok(reply)).unwrap();
                let _ = stream.write_all(&reply).await; // the caller may have gone
                let _ = stream.close().await;
                return;
            }
        })
    })
    .await;
}

fn find(request: &Bytes, records: &[(String, ServerRecord)]) -> Bytes {
    let request: FindRequest = proto::decode(request.clone()).unwrap();
    let result = |key: &Bytes| {
        let block = (0..BLOCKS).find(|block| DhtId::of_key(&block_key(PREFIX, *block)).0 == key[..]);
        let mut dictionary = Dictionary::default();
        for (peer, record) in records {
            let covers = |block| record.start_block.unwrap() <= block && block < record.end_block.unwrap();
            if block.is_some_and(covers) {
                let entry = Entry { value: record.encode().into(), expiration: now() + 100.0 };
                dictionary.entries.insert(peer.clone(), entry);
            }
        }
        let known = !dictionary.entries.is_empty();
        let value = if known { dictionary.encode().into() } else { Bytes::new() };
        let found = if known { ResultType::Dictionary } else { ResultType::NotFound };
        FindResult { r#type: found.into(), value, expiration_time: now() + 100.0, ..FindResult::default() }
    };
    proto::encode(&FindResponse { results: request.keys.iter().map(result).collect(), peer: Some(node()) })
}
