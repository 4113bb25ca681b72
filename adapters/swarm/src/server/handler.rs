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
use tokio::{
    sync::{Notify, Semaphore},
    task::spawn_blocking,
};

use super::{
    VERSION,
    blocks::Blocks,
    config::ServerConfig,
    input,
    refusal::Refusal,
    session::{Asked, Inboxes},
};
use crate::{
    rpc::{Message, Outcome, Room, Rpc, Share},
    wire::{
        frame::MAX_UNARY,
        inference::StepMetadata,
        proto::{self, ExpertRequest, ExpertResponse, ExpertUid, Tensor},
        server::block_uids,
        serving::{CallMetadata, RPC_PUSH, info_reply},
    },
};

/// Pushes under way; more are left out, since callers send every server a copy of their own.
const PUSHING: usize = 64;
/// How long a push may take.
pub(super) const PUSH: Duration = Duration::from_secs(10);
/// Bytes of tensors that are pushed at most: with names and metadata they fit into a message.
const MOST_PUSHED: usize = MAX_UNARY - (128 << 10);
/// Bytes of tensors that are read or written at once; with more it takes a while.
const AT_ONCE: usize = 64 << 10;
/// Tensors that are read or written at a time.
const ASIDE: usize = 4;

/// The state of a server.
pub(super) struct Handler {
    pub(super) config: ServerConfig,
    pub(super) blocks: Arc<Blocks>,
    pub(super) inboxes: Inboxes,
    pub(super) room: Room,
    /// Whether it is not reached directly.
    relayed: bool,
    aside: Arc<Semaphore>,
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

/// Where the output of a step goes on to, and what goes along.
pub(super) struct Onward {
    peer: PeerId,
    /// The next server reorders its rows as this one does.
    others: Vec<Tensor>,
}

impl Handler {
    pub(super) fn new(config: ServerConfig, blocks: Blocks, rpc: Rpc, relayed: bool) -> Self {
        Self {
            room: Room::new(config.limits.room),
            config,
            blocks: Arc::new(blocks),
            inboxes: Inboxes::default(),
            relayed,
            aside: Arc::new(Semaphore::new(ASIDE)),
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
            let block = match asked.uid.as_str() {
                "" => None,
                uid => {
                    input::blocks(&self.config, uid)?;
                    Some((self.config.hidden, self.config.dtype.into()))
                }
            };
            let free = self.blocks.free_tokens().saturating_mul(self.config.blocks.len());
            Ok(info_reply(VERSION, self.relayed, free, block))
        };
        answer().map_err(|refusal| refusal.repr())
    }

    /// `rpc_push`: hands the output of another server to the session that it is for.
    pub(super) fn take_push(&self, peer: PeerId, message: Message) -> Outcome {
        let take = || -> Result<(), Refusal> {
            let asked = Asked::read(message)?;
            let metadata = CallMetadata::decode(&asked.request.metadata)?;
            match metadata.session_id {
                Some(session) => self.inboxes.deliver(&session, asked),
                None => tracing::debug!(%peer, "a push without a session"),
            }
            Ok(())
        };
        take().map(|()| proto::encode(&ExpertResponse::default())).map_err(|refusal| refusal.repr())
    }

    /// Does what takes a while with so many bytes where it keeps nobody waiting.
    pub(super) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        work: impl FnOnce(&ServerConfig) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        if bytes <= AT_ONCE {
            return work(&self.config);
        }
        let ended = |_| Refusal::new("RuntimeError", "the server has ended");
        // It goes on where the caller goes: the place is its own.
        let (place, handler) = (self.aside.clone().acquire_owned().await.map_err(ended)?, self.clone());
        let working = spawn_blocking(move || {
            let _place = place;
            work(&handler.config)
        });
        working.await.unwrap_or_else(|_| Err(Refusal::new("RuntimeError", "tensors could not be read or written")))
    }

    /// Where the output of a step with these `arguments` goes on to; nowhere where the caller does not ask for it, or asks
    /// for what cannot be: deep prompts are of these blocks alone, and without positions there is nothing to hand on.
    pub(super) fn onward(&self, metadata: &CallMetadata, arguments: &[Tensor]) -> Option<Onward> {
        let peer = metadata.next_servers.first()?.peer.parse::<PeerId>().ok()?;
        let (hidden, others) = arguments.split_first()?;
        let plain = others.first().is_none_or(input::is_dummy) && !hidden.size.contains(&0);
        let wanted = plain && peer != self.rpc.host().peer_id();
        wanted.then(|| Onward { peer, others: others.to_vec() })
    }

    /// Sends the output of a step, and what came with its input, to the next server; `asked` is the room of the step.
    pub(super) fn push(self: &Arc<Self>, onward: Onward, metadata: &CallMetadata, output: Tensor, asked: &Share) {
        let Onward { peer, others } = onward;
        let tensors: Vec<Tensor> = std::iter::once(output).chain(others).collect();
        let weight = input::weight(&tensors);
        let (Some((next, rest)), true) = (metadata.next_servers.split_first(), weight <= MOST_PUSHED) else { return };
        // Left out where there is no room: callers send a copy of their own.
        let (Ok(room), Ok(place)) = (asked.another(2 * weight), self.pushing.clone().try_acquire_owned()) else {
            return;
        };
        let pushed = StepMetadata {
            session_id: &next.session_id,
            step_id: metadata.step_id.as_deref().unwrap_or_default(),
            start_from_position: metadata.start_from_position.and_then(|start| usize::try_from(start).ok()),
            next_servers: Some(rest),
            pushed: true,
            ..StepMetadata::default()
        };
        let (metadata, uid) = (pushed.encode(), block_uids(&self.config.dht_prefix, next.start..next.end));
        let handler = self.clone();
        tokio::spawn(async move {
            let _held = (room, place);
            let writing = move |_: &ServerConfig| Ok(proto::encode(&ExpertRequest { uid, tensors, metadata }));
            let Ok(request) = handler.aside(weight, writing).await else { return };
            if let Err(error) = handler.rpc.unary(peer, RPC_PUSH, request, PUSH).await {
                tracing::debug!(%peer, %error, "a push did not arrive");
            }
        });
    }
}
