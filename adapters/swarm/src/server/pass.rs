//! Passes without a cache: `rpc_forward`, `rpc_backward` and their streaming forms (wire protocol §6.4, §6.5).

use std::sync::Arc;

use corolla_domain::model::BlockRange;
use tokio::time::timeout;

use super::{
    backward::Backward,
    config::ServerConfig,
    handler::{Counted, Handler},
    input,
    refusal::{End, Refusal},
    session::refuse_adapter,
};
use crate::{
    rpc::{Caller, Message, Outcome, Share},
    transport::Worth,
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

/// Which way a pass goes through the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Hidden states.
    Forward,
    /// Gradients.
    Backward,
}

/// What a reply takes until it is sent.
pub(super) struct Held {
    _room: Share,
    _counted: Counted,
}

/// Results, on their way.
struct Reply {
    tensors: Vec<Tensor>,
    held: Held,
}

/// The unary form.
pub(super) async fn unary(handler: &Arc<Handler>, way: Direction, message: Message) -> (Outcome, Option<Held>) {
    let Message { bytes, room } = message;
    let pass = async { reply(handler, way, proto::decode(bytes)?, &room).await };
    match timeout(handler.config.limits.request, pass).await.unwrap_or_else(|_| Err(too_late())) {
        Ok(Reply { tensors, held }) => {
            (Ok(proto::encode(&ExpertResponse { tensors, ..ExpertResponse::default() })), Some(held))
        }
        Err(refusal) => (Err(refusal.repr()), None),
    }
}

/// The streaming form: tensors come and go in pieces.
pub(super) async fn stream(handler: &Arc<Handler>, way: Direction, mut caller: Caller) -> Worth {
    let limit = handler.config.limits.request;
    let pass = async {
        let (request, room) = gather(&mut caller).await?;
        tokio::select! {
            biased;
            reply = reply(handler, way, request, &room) => Ok(reply?),
            () = caller.stirs() => Err(End::Gone),
        }
    };
    let Reply { tensors, held: _held } = match timeout(limit, pass).await.unwrap_or_else(|_| Err(too_late().into())) {
        Ok(reply) => reply,
        Err(End::Refused(refusal)) => {
            caller.fail(&refusal.to_string()).await;
            return Worth::Vain;
        }
        Err(End::Silent | End::Gone) => return Worth::Vain,
    };
    let sending = async {
        for piece in tensors.iter().flat_map(|tensor| split(tensor, CHUNK)) {
            let message = ExpertResponse { tensors: vec![piece], ..ExpertResponse::default() };
            caller.send(&proto::encode(&message)).await?;
        }
        std::io::Result::Ok(())
    };
    let sent = timeout(limit, sending).await;
    let worth = caller.worth();
    if let Ok(Ok(())) = sent {
        caller.close().await;
    }
    worth
}

fn too_late() -> Refusal {
    Refusal::new("TimeoutError", "")
}

/// What becomes of a request that has so much room.
async fn reply(
    handler: &Arc<Handler>,
    way: Direction,
    request: ExpertRequest,
    asked: &Share,
) -> Result<Reply, Refusal> {
    let range = input::blocks(&handler.config, &request.uid)?;
    let metadata = CallMetadata::decode(&request.metadata)?;
    refuse_adapter(&metadata)?;
    let counted = handler.enter()?;
    let arguments = metadata.arrange(request.tensors)?;
    let (tensors, room) = match way {
        Direction::Forward => forward(handler, range, arguments, (&metadata, asked)).await?,
        Direction::Backward => backward(handler, range, arguments, (&metadata, asked)).await?,
    };
    Ok(Reply { tensors, held: Held { _room: room, _counted: counted } })
}

async fn forward(
    handler: &Arc<Handler>,
    range: BlockRange,
    arguments: Vec<Tensor>,
    (metadata, asked): (&CallMetadata, &Share),
) -> Result<(Vec<Tensor>, Share), Refusal> {
    let [codec] = codecs(metadata, "output_compression tuple should have 1 element")?;
    let _turn = handler.blocks.turn().await?;
    let input = handler.aside(input::weight(&arguments), move |config| input::input(config, range, arguments)).await?;
    let shape = input.shape;
    let bytes = input::bytes([shape.0, shape.1, shape.2]);
    let room = asked.another(bytes)?;
    let hidden = handler.blocks.pass(range, input, handler.config.limits.request).await?;
    let output = handler.aside(bytes, move |config| match hidden {
        Some(hidden) => input::output(&hidden, config.dtype, codec),
        None => Ok(input::nothing(shape, config.dtype)),
    });
    Ok((vec![output.await?], room))
}

async fn backward(
    handler: &Arc<Handler>,
    range: BlockRange,
    arguments: Vec<Tensor>,
    (metadata, asked): (&CallMetadata, &Share),
) -> Result<(Vec<Tensor>, Share), Refusal> {
    let blocks = &handler.blocks;
    let weight = input::weight(&arguments);
    let pass = Backward::read(&handler.config, range, arguments)?;
    let codecs = match pass.has_prompts() {
        true => codecs::<2>(metadata, "output_compression should have 2 elements")?.to_vec(),
        false => codecs::<1>(metadata, "output_compression should have 1 elements")?.to_vec(),
    };
    let (shape, bytes) = (pass.shape(), pass.reply_bytes());
    let room = asked.another(bytes)?;
    let turn = blocks.turn().await?;
    let Some(input) = handler.aside(weight, move |config| pass.decode(config, range)).await? else {
        return Ok((vec![input::nothing(shape, handler.config.dtype)], room));
    };
    let gradients = blocks.backward(range, input, turn, handler.config.limits.request / 2).await?;
    let output = move |config: &ServerConfig| super::backward::output(&gradients, config.dtype, &codecs);
    Ok((handler.aside(bytes, output).await?, room))
}

/// The codecs of `N` results, as the caller chooses them.
fn codecs<const N: usize>(metadata: &CallMetadata, wrong: &str) -> Result<[Compression; N], Refusal> {
    match &metadata.output_compression {
        None => Ok([Compression::None; N]),
        Some(codecs) => codecs[..].try_into().map_err(|_| Refusal::assertion(wrong)),
    }
}

/// A request put together from its pieces, and the room it takes.
async fn gather(caller: &mut Caller) -> Result<(ExpertRequest, Share), End> {
    let (mut joiner, mut whole) = (Joiner::new(TENSORS, MOST_PIECES), None::<(ExpertRequest, Share)>);
    let mut bytes = 0usize;
    while let Some(message) = caller.next().await? {
        bytes = bytes.saturating_add(message.bytes.len());
        let mut piece: ExpertRequest = proto::decode(message.bytes).map_err(Refusal::from)?;
        for tensor in std::mem::take(&mut piece.tensors) {
            joiner.push(tensor).map_err(Refusal::from)?;
        }
        match &mut whole {
            None => whole = Some((piece, message.room)),
            Some((first, _)) if first.uid != piece.uid => {
                return Err(Refusal::value("Block uids differ in one request").into());
            }
            Some((_, taken)) => taken.grow(bytes).map_err(Refusal::from)?,
        }
    }
    let (whole, taken) = whole.ok_or_else(|| Refusal::value("a request without a message"))?;
    Ok((ExpertRequest { tensors: joiner.finish(), ..whole }, taken))
}
