//! Streams at a server of a [`Party`](crate::party::Party): sessions, with pushes as in Petals 2.3, and forward passes.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use bytes::Bytes;
use corolla_swarm::{
    transport::{PeerId, Stream},
    wire::{
        frame::{StreamDecoder, StreamFrame, encode_stream_error, encode_stream_message},
        inference::{NextServer, StepMetadata},
        msgpack::Value,
        proto::{self, Compression, ExpertRequest, ExpertResponse, Tensor},
        server::block_uids,
        tensor,
    },
};
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::{
    blocks::Blocks,
    fake::PREFIX,
    party::{Server, Way},
};

/// Pushes that may wait for a session.
const PUSHES: usize = 64;

/// What a step says of itself.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) session_id: String,
    pub(crate) step_id: String,
    pub(crate) pushed: bool,
    first: bool,
    start_from_position: usize,
    next_servers: Vec<NextServer>,
}

impl Metadata {
    pub(crate) fn read(request: &ExpertRequest) -> Self {
        let map = Value::decode(&request.metadata).unwrap();
        let text = |v: &Value| v.as_text().unwrap().to_owned();
        let number = |v: &Value| usize::try_from(v.as_int().unwrap()).unwrap();
        let next = |v: &Value| {
            let v = v.items().unwrap();
            assert_eq!(v.len(), 4, "peer, session, first block, block after the last");
            NextServer { peer: text(&v[0]), session_id: text(&v[1]), start: number(&v[2]), end: number(&v[3]) }
        };
        Self {
            session_id: text(map.get("session_id").unwrap()),
            step_id: text(map.get("step_id").unwrap()),
            pushed: map.get("pushed").is_some_and(|v| v.as_bool().unwrap()),
            first: map.get("max_length").is_some(),
            start_from_position: number(map.get("start_from_position").unwrap()),
            next_servers: map
                .get("next_servers")
                .map_or_else(Vec::new, |v| v.items().unwrap().iter().map(next).collect()),
        }
    }
}

/// Counts a session as long as it lives, and takes its inbox away afterwards.
struct Seat(Arc<Server>, String);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.deeds.open.fetch_sub(1, SeqCst);
        self.0.inboxes.lock().unwrap().remove(&self.1);
    }
}

pub(crate) async fn session(server: Arc<Server>, mut stream: Stream) {
    let (mut decoder, mut chunk) = (StreamDecoder::new(64 << 20), vec![0; 65536]);
    let (inbox, mut pushed) = mpsc::channel(PUSHES);
    let mut alive = server.alive.subscribe();
    let mut seat: Option<(Seat, Cache)> = None;
    loop {
        let request = tokio::select! {
            biased;
            _ = alive.wait_for(|alive| !alive) => return,
            Some(request) = pushed.recv() => request,
            message = receive(&mut stream, &mut decoder, &mut chunk) => match message {
                Some(message) => proto::decode::<ExpertRequest>(message).unwrap(),
                None => return,
            },
        };
        if request.tensors.is_empty() {
            return;
        }
        let metadata = Metadata::read(&request);
        let (_, cache) = seat.get_or_insert_with(|| {
            server.deeds.open.fetch_add(1, SeqCst);
            server.inboxes.lock().unwrap().insert(metadata.session_id.clone(), inbox.clone());
            let cache = Cache { blocks: Blocks::new(server.range(&request.uid)), done: HashSet::new() };
            (Seat(server.clone(), metadata.session_id.clone()), cache)
        });
        if !cache.done.insert(metadata.step_id.clone()) {
            server.deeds.doubles.fetch_add(1, SeqCst);
            continue;
        }
        let reply = match cache.step(&server, &request, &metadata) {
            Ok(output) => {
                hand_on(&server, &request, &metadata, &output).await;
                if *server.way.lock().unwrap() == Way::Mute {
                    continue;
                }
                let response = ExpertResponse { tensors: vec![output], ..ExpertResponse::default() };
                encode_stream_message(&proto::encode(&response))
            }
            Err(text) => encode_stream_error(&text),
        };
        if stream.write_all(&reply).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// The client's next message, or its end. May be dropped at any time.
async fn receive(stream: &mut Stream, decoder: &mut StreamDecoder, chunk: &mut [u8]) -> Option<Bytes> {
    loop {
        match decoder.next().unwrap() {
            Some(StreamFrame::Message(message)) => return Some(message),
            Some(StreamFrame::Error(_)) => return None,
            None => {}
        }
        match stream.read(chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => decoder.push(&chunk[..count]),
        }
    }
}

struct Cache {
    blocks: Blocks,
    /// Steps that were executed.
    done: HashSet<String>,
}

impl Cache {
    fn step(&mut self, server: &Server, request: &ExpertRequest, metadata: &Metadata) -> Result<Tensor, String> {
        if metadata.first && !metadata.next_servers.is_empty() {
            return Err("next_servers in the first message".into());
        }
        if metadata.start_from_position != self.blocks.positions() {
            return Err(format!("{metadata:?} at position {}", self.blocks.positions()));
        }
        let input = &request.tensors[0];
        if input.size[1] == 0 {
            return Ok(input.clone());
        }
        let executed = if metadata.pushed { &server.deeds.from_push } else { &server.deeds.from_client };
        executed.fetch_add(1, SeqCst);
        let hidden = tensor::decode(input, tensor::Limits::default()).unwrap().to_hidden().unwrap();
        Ok(tensor::encode(&self.blocks.step(&hidden), Compression::None).unwrap())
    }
}

/// Pushes the output of a step to the next server, with the rest of the list.
async fn hand_on(server: &Server, request: &ExpertRequest, metadata: &Metadata, output: &Tensor) {
    let Some((next, rest)) = metadata.next_servers.split_first() else { return };
    let pushed = StepMetadata {
        session_id: &next.session_id,
        step_id: &metadata.step_id,
        start_from_position: Some(metadata.start_from_position),
        next_servers: Some(rest),
        pushed: true,
        ..StepMetadata::default()
    };
    let mut tensors = request.tensors.clone();
    tensors[0] = output.clone();
    let uid = block_uids(PREFIX, next.start..next.end);
    let (peer, request): (PeerId, _) =
        (next.peer.parse().unwrap(), ExpertRequest { uid, tensors, metadata: pushed.encode() });
    if *server.way.lock().unwrap() == Way::Late {
        server.late.lock().unwrap().push((peer, request));
    } else {
        server.push(peer, request).await;
    }
}

/// A forward pass in pieces.
pub(crate) async fn forward(server: Arc<Server>, mut stream: Stream) {
    server.deeds.streamed.fetch_add(1, SeqCst);
    let (mut decoder, mut chunk) = (StreamDecoder::new(64 << 20), vec![0; 65536]);
    let (mut joiner, mut request) = (tensor::Joiner::new(2, 64 << 20), ExpertRequest::default());
    loop {
        match decoder.next().unwrap() {
            Some(StreamFrame::Message(message)) => {
                request = proto::decode(message).unwrap();
                assert_eq!(request.tensors.len(), 1, "one piece in a message");
                joiner.push(request.tensors.remove(0)).unwrap();
                continue;
            }
            Some(StreamFrame::Error(_)) => break, // that is how the end of the input is written
            None => {}
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.push(&chunk[..count]),
        }
    }
    request.tensors = joiner.finish();
    assert_eq!(request.tensors[1], tensor::dummy(tensor::Dtype::F32), "no prompts");
    let Some(tensors) = server.forward(&request) else {
        let _ = stream.read(&mut chunk).await; // until the caller gives up
        return;
    };
    for piece in tensors.iter().flat_map(|t| tensor::split(t, tensor::CHUNK)) {
        let reply = proto::encode(&ExpertResponse { tensors: vec![piece], ..ExpertResponse::default() });
        if stream.write_all(&encode_stream_message(&reply)).await.is_err() {
            return;
        }
    }
    let _ = stream.close().await;
}
