//! Asking other peers for somebody's addresses: FIND_NODE of libp2p's Kademlia, iteratively and as a mere client.
//!
//! Any hivemind daemon that has seen the target can answer, even when the target itself takes no part in Kademlia.

use std::{collections::HashSet, io, time::Duration};

use corolla_domain::ports::PortError;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId, kad::KBucketKey};
use prost::Message as _;
use tokio::time::timeout;

use super::host::Host;
use crate::wire::proto::{self, KadMessage, KadPeer};

pub(super) const PROTOCOL: &str = "/ipfs/kad/1.0.0";
/// Peers asked at a time, and altogether.
const PARALLEL: usize = 3;
const MAX_ASKED: usize = 32;
/// How long one peer may take, its connection included.
const PATIENCE: Duration = Duration::from_secs(3);
/// Twenty peers with many addresses stay far below.
const MAX_ANSWER: usize = 256 * 1024;
/// Peers and addresses taken from one answer.
const MAX_PEERS: usize = 40;
const MAX_ADDRESSES: usize = 16;

/// Looks for `target` until somebody names an address that leads to it; the host is connected to it then. Who names one
/// that does not has not ended the search. False: nobody did.
pub(super) async fn search(host: &Host, target: PeerId) -> bool {
    let key = KBucketKey::from(target);
    let mut queue: Vec<PeerId> = host.initial_peers().to_vec();
    queue.extend(host.connected().into_iter().map(|(peer, _)| peer));
    queue.reverse();
    let mut seen = HashSet::from([target, host.peer_id()]);
    let mut asked = 0;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < PARALLEL && asked < MAX_ASKED {
            let Some(peer) = queue.pop() else { break };
            if seen.insert(peer) {
                asked += 1;
                running.push(async move { (peer, timeout(PATIENCE, ask(host, peer, target)).await) });
            }
        }
        let Some((peer, answer)) = running.next().await else { return false };
        let Ok(Ok(entries)) = answer else {
            tracing::debug!(%peer, %target, ?answer, "no answer to FIND_NODE");
            continue;
        };
        let mut nearer = Vec::new();
        let mut found = false;
        for (peer, addresses) in entries {
            found |= peer == target;
            nearer.push(peer);
            host.learn(peer, addresses).await;
        }
        if found && matches!(timeout(PATIENCE, host.dial(target)).await, Ok(Ok(()))) {
            return true;
        }
        queue.extend(nearer.into_iter().filter(|peer| !seen.contains(peer)));
        // The nearest last, as that is where the next is taken from.
        queue.sort_by_cached_key(|peer| std::cmp::Reverse(KBucketKey::from(*peer).distance(&key)));
        queue.dedup();
    }
}

/// What `peer` says about `target`: peers with at least one address each.
async fn ask(host: &Host, peer: PeerId, target: PeerId) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, PortError> {
    host.dial(peer).await?;
    let mut stream = host.open(peer, PROTOCOL).await?;
    let request = KadMessage::find_node(target.to_bytes());
    let answer = async {
        stream.write_all(&request.encode_length_delimited_to_vec()).await?;
        stream.flush().await?;
        read_message(&mut stream, MAX_ANSWER).await
    };
    let answer = answer.await.map_err(|e| PortError::invalid(format!("FIND_NODE answer of {peer}: {e}")))?;
    Ok(answer.closer.into_iter().take(MAX_PEERS).filter_map(parse).collect())
}

/// One message of Kademlia, of at most `most` bytes.
pub(super) async fn read_message(
    stream: &mut (impl futures_util::AsyncRead + Unpin),
    most: usize,
) -> io::Result<KadMessage> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] < 0x80 {
            break;
        }
        if shift > 21 {
            return Err(invalid("a length without an end"));
        }
    }
    if length > most {
        return Err(invalid("too long"));
    }
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    proto::decode(body).map_err(io::Error::other)
}

/// An entry's parts, where they are whole; a broken address costs that address only.
fn parse(entry: KadPeer) -> Option<(PeerId, Vec<Multiaddr>)> {
    let peer = PeerId::from_bytes(&entry.id).ok()?;
    let addresses: Vec<Multiaddr> = entry
        .addresses
        .into_iter()
        .take(MAX_ADDRESSES)
        .filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok())
        .collect();
    (!addresses.is_empty()).then_some((peer, addresses))
}
