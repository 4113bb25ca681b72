//! Telling others where peers live: the server side of libp2p's Kademlia, as far as hivemind's daemons need it (wire
//! protocol §1.6). They use it to find addresses, never values.
//!
//! libp2p's own behaviour never names itself, which a daemon that tries us out in a swarm of two takes for having no
//! routing table; this one does, as the daemons do.

use std::{io, time::Duration};

use futures_util::AsyncWriteExt as _;
use libp2p::{Multiaddr, PeerId, Stream};
use prost::Message as _;
use tokio::time::timeout;

use super::{
    conduct::Worth,
    find_node::{PROTOCOL, read_message},
    host::{Directory, Incoming},
    places::{Most, take},
};
use crate::wire::proto::{KadMessage, KadPeer};

/// Streams that are answered at a time, and those of one peer: daemons have one, our own hosts one for each search.
const MOST: Most = Most { all: 512, of_peer: 16 };
/// How long a stream may say nothing: daemons keep theirs for the next question.
const MAX_IDLE: Duration = Duration::from_secs(120);
/// How long an answer may stay unread.
const WRITING: Duration = Duration::from_secs(10);
/// Most bytes of a question: a key and its kind.
const MAX_QUESTION: usize = 4096;

/// Answers questions, which are streams of [`PROTOCOL`], until the host ends.
pub(super) async fn serve(questions: Incoming, directory: Directory) {
    take(questions, PROTOCOL, MOST, |peer, stream| {
        let directory = directory.clone();
        async move {
            if let Err(error) = answer(stream, &directory).await {
                tracing::debug!(%peer, %error, "a stream of Kademlia ended");
            }
            Worth::Served
        }
    })
    .await;
}

async fn answer(mut stream: Stream, directory: &Directory) -> io::Result<()> {
    loop {
        let question = timeout(MAX_IDLE, read_message(&mut stream, MAX_QUESTION)).await??;
        let closer = match question.kind {
            KadMessage::GET_VALUE | KadMessage::GET_PROVIDERS | KadMessage::FIND_NODE => {
                let nearest = directory.nearest(question.key.to_vec()).await;
                nearest.into_iter().map(entry).collect()
            }
            KadMessage::PING => Vec::new(),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "nothing is stored here")),
        };
        let reply = KadMessage { closer, ..question };
        let writing = async {
            stream.write_all(&reply.encode_length_delimited_to_vec()).await?;
            stream.flush().await
        };
        timeout(WRITING, writing).await??;
    }
}

fn entry((peer, addresses): (PeerId, Vec<Multiaddr>)) -> KadPeer {
    let addresses = addresses.into_iter().map(|address| address.to_vec().into()).collect();
    KadPeer { id: peer.to_bytes().into(), addresses }
}
