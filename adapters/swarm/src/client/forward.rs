//! Blocks of one server without a cache (wire protocol §6.4).

use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{FaultKind, PortError},
};
use tokio::time::timeout;

use super::{
    dialer::Dialer,
    link::{of_peer, remote_text},
};
use crate::{
    rpc::RpcStream,
    transport::PeerId,
    wire::{
        WireError,
        inference::{RPC_FORWARD, RPC_FORWARD_STREAM, forward_pieces, forward_request, hidden_of, parse_hidden},
        proto::{self, ExpertRequest, ExpertResponse},
        server::block_uids,
        tensor::{CHUNK, Joiner, cast},
    },
};

/// Messages of one reply. A server sends 4 MiB in each.
const MOST_PIECES: usize = 1024;

impl Dialer {
    /// Runs hidden states through blocks of `peer` once. The answer is in the caller's type.
    pub(super) async fn forward(&self, peer: PeerId, blocks: BlockRange, hidden: &Hidden) -> Result<Hidden, PortError> {
        let output = self.compute(peer, blocks, hidden).await.inspect_err(|fault| self.failed(peer, fault))?;
        cast(&output, hidden.dtype())
    }

    /// Long input is streamed. What is not (1 MiB) is answered by no more than 2 MiB, which a unary call can carry: a server
    /// may widen halves to singles.
    async fn compute(&self, peer: PeerId, blocks: BlockRange, hidden: &Hidden) -> Result<Hidden, PortError> {
        let codec = self.terms(peer, blocks).await?.codec;
        let uids = block_uids(&self.prefix, blocks.start()..blocks.end());
        let request = forward_request(&uids, codec.encode(hidden)?, None);
        if elements(hidden) * codec.dtype.size() > self.most_unary {
            return self.streamed(peer, &request, hidden).await;
        }
        let reply = self.rpc.unary(peer, RPC_FORWARD, proto::encode(&request), self.timeout).await.map_err(of_peer)?;
        parse_hidden(reply, hidden).map_err(|error| nonsense(peer, error))
    }

    async fn streamed(&self, peer: PeerId, request: &ExpertRequest, sent: &Hidden) -> Result<Hidden, PortError> {
        let call = async {
            let mut stream = self.rpc.stream(peer, RPC_FORWARD_STREAM).await.map_err(of_peer)?;
            if let Err(fault) = send(&mut stream, request).await {
                // The server may have said why it listens no longer.
                let told = stream.next(self.timeout).await.err().filter(|why| remote_text(why).is_some());
                return Err(of_peer(told.unwrap_or(fault)));
            }
            let mut joiner = Joiner::new(1, most_bytes(sent));
            for _ in 0..MOST_PIECES {
                let Some(message) = stream.next(self.timeout).await.map_err(of_peer)? else {
                    return hidden_of(&joiner.finish(), sent).map_err(|error| nonsense(peer, error));
                };
                add(&mut joiner, message).map_err(|error| nonsense(peer, error))?;
            }
            Err(nonsense(peer, WireError::malformed("reply", format!("more than {MOST_PIECES} messages"))))
        };
        timeout(self.timeout, call).await.unwrap_or_else(|_| {
            let (limit, sides) = (self.timeout, [sent.batch(), sent.seq(), sent.width()]);
            let text = format!("{RPC_FORWARD_STREAM} of {sides:?} at {peer} took longer than {limit:?}");
            Err(PortError::new(FaultKind::TimedOut, text))
        })
    }
}

/// Sends a request piece by piece.
async fn send(stream: &mut RpcStream, request: &ExpertRequest) -> Result<(), PortError> {
    for piece in forward_pieces(request, CHUNK) {
        stream.send(proto::encode(&piece)).await?;
    }
    stream.finish().await
}

/// Adds one message of a reply.
fn add(joiner: &mut Joiner, message: bytes::Bytes) -> Result<(), WireError> {
    let response: ExpertResponse = proto::decode(message)?;
    response.tensors.into_iter().try_for_each(|piece| joiner.push(piece))
}

fn elements(hidden: &Hidden) -> usize {
    hidden.batch() * hidden.seq() * hidden.width()
}

/// Bytes of an answer at most, whatever its codec: a single for each number, two for each row, a codebook.
fn most_bytes(hidden: &Hidden) -> usize {
    4 * elements(hidden) + 8 * hidden.batch() * hidden.seq() + 4096
}

fn nonsense(peer: PeerId, error: WireError) -> PortError {
    let text = format!("{peer} answered a forward pass with nonsense: {error}");
    PortError::new(FaultKind::Unavailable, text).with_source(error)
}
