//! What all methods share, and the short ones: `rpc_info`, `rpc_push` (wire protocol §6).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use libp2p::PeerId;
use tokio::sync::{Notify, Semaphore};

use super::{VERSION, blocks::Blocks, config::ServerConfig, input, pass::Room, refusal::Refusal, session::Inboxes};
use crate::{
    rpc::{Outcome, Rpc},
    wire::{
        frame::MAX_UNARY,
        inference::{RpcInfo, StepMetadata},
        proto::{self, Compression, ExpertRequest, ExpertResponse, ExpertUid, Tensor},
        server::block_uids,
        serving::{CallMetadata, RPC_PUSH, info_reply},
    },
};

/// Pushes under way; more are left out, since callers send every server a copy of their own.
const PUSHING: usize = 64;
/// How long a push may take.
const PUSH: Duration = Duration::from_secs(10);

/// The state of a server.
pub(super) struct Handler {
    pub(super) config: ServerConfig,
    pub(super) blocks: Arc<Blocks>,
    pub(super) inboxes: Inboxes,
    pub(super) room: Room,
    rpc: Rpc,
    pushing: Arc<Semaphore>,
    draining: AtomicBool,
    sessions: Arc<Sessions>,
}

/// How many sessions live, and passes.
#[derive(Debug, Default)]
struct Sessions {
    open: AtomicUsize,
    /// Told when one ends.
    ended: Notify,
}

/// A session that lives.
pub(super) struct Counted(Arc<Sessions>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        self.0.ended.notify_waiters();
    }
}

impl Handler {
    pub(super) fn new(config: ServerConfig, blocks: Blocks, rpc: Rpc) -> Self {
        Self {
            config,
            blocks: Arc::new(blocks),
            inboxes: Inboxes::default(),
            room: Room::default(),
            rpc,
            pushing: Arc::new(Semaphore::new(PUSHING)),
            draining: AtomicBool::new(false),
            sessions: Arc::default(),
        }
    }

    /// Counts a session or a pass, unless the server is about to end.
    pub(super) fn enter(&self) -> Result<Counted, Refusal> {
        if self.draining.load(SeqCst) {
            return Err(Refusal::new("RuntimeError", "the server is shutting down and takes no new sessions"));
        }
        self.sessions.open.fetch_add(1, SeqCst);
        Ok(Counted(self.sessions.clone()))
    }

    /// How many sessions live, and passes.
    pub(super) fn open_sessions(&self) -> usize {
        self.sessions.open.load(SeqCst)
    }

    /// Takes no new sessions, and waits until the last has ended.
    pub(super) async fn drain(&self) {
        self.draining.store(true, SeqCst);
        loop {
            let ended = self.sessions.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if self.open_sessions() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// `rpc_info`: of the server, and with a uid of its tensors.
    pub(super) fn info(&self, request: Bytes) -> Outcome {
        let answer = || -> Result<Bytes, Refusal> {
            let asked: ExpertUid = proto::decode(request)?;
            let tensors = (self.config.hidden, self.config.dtype.into(), Compression::None);
            let block = match asked.uid.as_str() {
                "" => None,
                uid => input::blocks(&self.config, uid).map(|_| Some(tensors))?,
            };
            let free = self.blocks.free_tokens().saturating_mul(self.config.blocks.len());
            let info = RpcInfo {
                version: Some(VERSION.to_owned()),
                dht_client_mode: Some(false),
                cache_tokens_available: Some(free as u64),
                ..RpcInfo::default()
            };
            Ok(info_reply(&info, block))
        };
        answer().map_err(|refusal| refusal.repr())
    }

    /// `rpc_push`: hands the output of another server to the session that it is for.
    pub(super) fn take_push(&self, peer: PeerId, request: Bytes) -> Outcome {
        let take = || -> Result<(), Refusal> {
            let request: ExpertRequest = proto::decode(request)?;
            let metadata = CallMetadata::decode(&request.metadata)?;
            match metadata.session_id {
                Some(session) => self.inboxes.deliver(&session, request),
                None => tracing::debug!(%peer, "a push without a session"),
            }
            Ok(())
        };
        take().map(|()| proto::encode(&ExpertResponse::default())).map_err(|refusal| refusal.repr())
    }

    /// Sends the output of a step to the next server, where the caller asks for it.
    pub(super) fn push(&self, metadata: &CallMetadata, output: &Tensor, others: Vec<Tensor>) {
        let Some((next, rest)) = metadata.next_servers.split_first() else { return };
        let Ok(peer) = next.peer.parse::<PeerId>() else { return };
        let Ok(place) = self.pushing.clone().try_acquire_owned() else { return };
        let pushed = StepMetadata {
            session_id: &next.session_id,
            step_id: metadata.step_id.as_deref().unwrap_or_default(),
            start_from_position: metadata.start_from_position.and_then(|start| usize::try_from(start).ok()),
            next_servers: Some(rest),
            pushed: true,
            ..StepMetadata::default()
        };
        let uid = block_uids(&self.config.dht_prefix, next.start..next.end);
        let tensors = std::iter::once(output.clone()).chain(others).collect();
        let request = proto::encode(&ExpertRequest { uid, tensors, metadata: pushed.encode() });
        if request.len() >= MAX_UNARY || peer == self.rpc.host().peer_id() {
            return;
        }
        let rpc = self.rpc.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = rpc.unary(peer, RPC_PUSH, request, PUSH).await {
                tracing::debug!(%peer, %error, "a push did not arrive");
            }
        });
    }
}
