//! The swarm as a server sees it that looks for its place in it.

use corolla_domain::{placement::Seat, ports::PortError};

use super::Bootstrap;
use crate::{
    client::view::{self, Seen},
    wire::server::{ServerState, block_key},
};

/// Servers that are thought about; the public swarm has had hundreds.
const MOST_SEATS: usize = 2048;

impl Bootstrap {
    /// Servers that have blocks `0..blocks` of a model or load them, this member's own among them.
    ///
    /// # Errors
    /// `Unavailable` or `TimedOut` where nobody answers.
    pub async fn seats(&self, prefix: &str, blocks: usize) -> Result<Vec<Seat>, PortError> {
        let keys: Vec<String> = (0..blocks).map(|block| block_key(prefix, block)).collect();
        let found = self.node.get_many(&keys, &view::is_record).await?;
        let mut seats: Vec<Seat> = view::servers(&found, prefix, blocks).iter().flat_map(seats_of).collect();
        if seats.len() > MOST_SEATS {
            tracing::warn!(servers = seats.len(), "only {MOST_SEATS} servers of the swarm are thought about");
            seats.truncate(MOST_SEATS);
        }
        Ok(seats)
    }

    /// Bits a second that go from here into the swarm, see [`DhtNode::upload`](crate::dht::DhtNode::upload).
    ///
    /// # Errors
    /// As there.
    pub async fn upload(&self) -> Result<f64, PortError> {
        self.node.upload().await
    }
}

fn seats_of(seen: &Seen) -> Vec<Seat> {
    let record = &seen.record;
    if record.state == ServerState::Offline {
        return Vec::new();
    }
    let online = record.state == ServerState::Online;
    let seat = |blocks| Seat { peer: seen.peer.clone(), blocks, throughput: record.throughput, online };
    seen.spans.iter().copied().map(seat).collect()
}
