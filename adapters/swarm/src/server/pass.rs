//! Passes without a cache: `rpc_forward`, `rpc_backward` and their streaming forms (wire protocol §6.4, §6.5).

use std::sync::Arc;

use bytes::Bytes;
use corolla_domain::model::BlockRange;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{backward::Backward, handler::Handler, input, refusal::Refusal, session::refuse_adapter};
use crate::{
    rpc::{Caller, Outcome},
    wire::{
        proto::{self, Compression, ExpertRequest, ExpertResponse, Tensor},
        serving::CallMetadata,
        tensor::{CHUNK, Joiner, split},
    },
};

/// Tensors of a pass in pieces.
const TENSORS: usize = 4;
/// Most bytes of a pass in pieces, all tensors together.
const MOST_PIECES: usize = 256 << 20;
/// Bytes of requests in pieces, and of replies that are still to be sent, all callers together.
const ROOM: usize = 1 << 30;
/// Room is given away in units of this many bytes.
const UNIT: usize = 64 << 10;

/// Which way a pass goes through the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Hidden states.
    Forward,
    /// Gradients.
    Backward,
}

/// Room for what passes bring and take. Nobody waits for it: who comes when there is none is refused.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM / UNIT)))
    }
}

impl Room {
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(units).map_err(|_| {
            let text =
                format!("Could not allocate {bytes} bytes: the passes of all callers take up the memory for them");
            Refusal::new("AllocationFailed", text)
        })
    }
}

/// Results, and the room that they take until they are sent.
struct Reply {
    tensors: Vec<Tensor>,
    _room: OwnedSemaphorePermit,
}

/// The unary form.
pub(super) async fn unary(handler: &Handler, way: Direction, request: Bytes) -> Outcome {
    let pass = async {
        let Reply { tensors, _room } = reply(handler, way, proto::decode(request)?).await?;
        Ok(proto::encode(&ExpertResponse { tensors, ..ExpertResponse::default() }))
    };
    in_time(handler, pass).await.map_err(|refusal| refusal.repr())
}

/// The streaming form: tensors come and go in pieces.
pub(super) async fn stream(handler: &Handler, way: Direction, mut caller: Caller) {
    let pass = async {
        let (request, _room) = match pieces(&handler.room, &mut caller).await {
            Ok(request) => request?,
            Err(error) => {
                tracing::debug!(peer = %caller.peer(), %error, "a caller has gone");
                return Ok(None);
            }
        };
        tokio::select! {
            biased;
            reply = reply(handler, way, request) => reply.map(Some),
            () = caller.stirs() => Ok(None),
        }
    };
    match in_time(handler, pass).await {
        Ok(Some(Reply { tensors, _room })) => {
            let sending = async {
                for piece in tensors.iter().flat_map(|tensor| split(tensor, CHUNK)) {
                    let message = ExpertResponse { tensors: vec![piece], ..ExpertResponse::default() };
                    caller.send(&proto::encode(&message)).await?;
                }
                std::io::Result::Ok(())
            };
            if let Ok(Ok(())) = timeout(handler.config.limits.request, sending).await {
                caller.close().await;
            }
        }
        Ok(None) => {}
        Err(refusal) => caller.fail(&refusal.to_string()).await,
    }
}

async fn in_time<T>(handler: &Handler, pass: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    timeout(handler.config.limits.request, pass).await.unwrap_or_else(|_| Err(Refusal::new("TimeoutError", "")))
}

async fn reply(handler: &Handler, way: Direction, request: ExpertRequest) -> Result<Reply, Refusal> {
    let range = input::blocks(&handler.config, &request.uid)?;
    let metadata = CallMetadata::decode(&request.metadata)?;
    refuse_adapter(&metadata)?;
    let _counted = handler.enter()?;
    match way {
        Direction::Forward => forward(handler, range, request, &metadata).await,
        Direction::Backward => backward(handler, range, request, &metadata).await,
    }
}

async fn forward(
    handler: &Handler,
    range: BlockRange,
    request: ExpertRequest,
    metadata: &CallMetadata,
) -> Result<Reply, Refusal> {
    let [codec] = codecs(metadata, || "output_compression tuple should have 1 element".to_owned())?;
    let (config, blocks) = (&handler.config, &handler.blocks);
    let _turn = blocks.turn().await?;
    let input = input::input(config, range, request, metadata)?;
    let shape = input.shape;
    let room = handler.room.take(input::bytes([shape.0, shape.1, shape.2]))?;
    let tensor = match blocks.pass(range, input, config.limits.request).await? {
        Some(hidden) => input::output(&hidden, config.dtype, codec)?,
        None => input::nothing(shape, config.dtype),
    };
    Ok(Reply { tensors: vec![tensor], _room: room })
}

async fn backward(
    handler: &Handler,
    range: BlockRange,
    request: ExpertRequest,
    metadata: &CallMetadata,
) -> Result<Reply, Refusal> {
    let (config, blocks) = (&handler.config, &handler.blocks);
    let asked = Backward::read(config, range, request, metadata)?;
    let wrong = |count: usize| move || format!("output_compression should have {count} elements");
    let codecs: Vec<Compression> = match asked.has_prompts() {
        true => codecs::<2>(metadata, wrong(2))?.into(),
        false => codecs::<1>(metadata, wrong(1))?.into(),
    };
    let room = handler.room.take(asked.reply_bytes())?;
    let shape = asked.shape();
    let turn = blocks.turn().await?;
    let tensors = match asked.decode(config, range)? {
        Some(input) => {
            let gradients = blocks.backward(range, input, turn, config.limits.request / 2).await?;
            super::backward::output(&gradients, config.dtype, &codecs)?
        }
        None => vec![input::nothing(shape, config.dtype)],
    };
    Ok(Reply { tensors, _room: room })
}

/// The codecs of `N` results, as the caller chooses them.
fn codecs<const N: usize>(
    metadata: &CallMetadata,
    wrong: impl FnOnce() -> String,
) -> Result<[Compression; N], Refusal> {
    match metadata.output_compression.as_deref() {
        None => Ok([Compression::None; N]),
        Some(codecs) => codecs.try_into().map_err(|_| Refusal::assertion(wrong())),
    }
}

/// A request put together from its pieces, and the room it takes: the outer fault is the caller's end.
async fn pieces(
    room: &Room,
    caller: &mut Caller,
) -> std::io::Result<Result<(ExpertRequest, Option<OwnedSemaphorePermit>), Refusal>> {
    let mut gathered = Gathered { joiner: Joiner::new(TENSORS, MOST_PIECES), whole: None, bytes: 0, room: None };
    while let Some(message) = caller.next().await? {
        if let Err(refusal) = gathered.add(room, message) {
            return Ok(Err(refusal));
        }
    }
    let Some(mut request) = gathered.whole else { return Ok(Err(Refusal::value("a request without a message"))) };
    request.tensors = gathered.joiner.finish();
    Ok(Ok((request, gathered.room)))
}

/// What has come of a request in pieces.
struct Gathered {
    joiner: Joiner,
    whole: Option<ExpertRequest>,
    bytes: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl Gathered {
    fn add(&mut self, room: &Room, message: Bytes) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(message.len());
        let held = self.room.as_ref().map_or(0, |room| room.num_permits() * UNIT);
        if self.bytes > held {
            let more = room.take(self.bytes - held)?;
            match &mut self.room {
                None => self.room = Some(more),
                Some(room) => room.merge(more),
            }
        }
        let mut piece: ExpertRequest = proto::decode(message)?;
        for tensor in std::mem::take(&mut piece.tensors) {
            self.joiner.push(tensor)?;
        }
        match &self.whole {
            None => self.whole = Some(piece),
            Some(first) if first.uid != piece.uid => return Err(Refusal::value("Block uids differ in one request")),
            Some(_) => {}
        }
        Ok(())
    }
}
