//! What a server tells the swarm about itself, again and again before it expires (wire protocol §4).

use std::{sync::Arc, time::Duration};

use corolla_domain::{model::ElementType, placement::Pace, ports::PortError};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{VERSION, config::ServerConfig};
use crate::{
    dht::{DhtNode, Record, unix_time},
    wire::{
        server::{MODELS_KEY, ModelRecord, ServerRecord, ServerState, block_key},
        tensor::Dtype,
    },
};

/// Time to the next attempt where nobody could be told.
const AGAIN: Duration = Duration::from_secs(5);
/// What is left of the network's speed behind a relay (§8.3).
const RELAYED: f64 = 0.2;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// How fast a server is, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Steps of one position, one block, a second.
    pub inference: f64,
    /// Positions of a long pass, one block, a second.
    pub forward: f64,
    /// Positions that its network carries in a second.
    pub network: f64,
}

/// Bits a second that a network is taken to carry where it cannot be measured (§8.3).
pub const NETWORK_BITS: f64 = 100e6;

impl Speed {
    /// Of blocks of that pace, for a model whose hidden states are `hidden` numbers, in a network of `bits` a second.
    #[must_use]
    pub fn new(pace: Pace, bits: f64, hidden: usize) -> Self {
        Self { inference: pace.inference, forward: pace.forward, network: bits / (hidden.max(1) as f64 * 16.0) }
    }

    /// Positions a second as routes for whole passes are weighed (§8.3).
    pub(super) fn throughput(&self, blocks: usize, relayed: bool) -> f64 {
        let network = if relayed { self.network * RELAYED } else { self.network };
        (self.forward / ((blocks as f64 + 1.0) / 2.0)).min(network)
    }
}

/// Tells the swarm.
pub(super) struct Announcer {
    pub(super) node: Arc<DhtNode>,
    pub(super) config: ServerConfig,
    pub(super) peer: String,
    /// Whether it is reached through relays only.
    pub(super) relayed: bool,
}

impl Announcer {
    /// Announces until the state's sender is gone: at once where it changes, and again and again before what was said
    /// expires. `free` says how many positions the cache can take over all blocks.
    pub(super) async fn run(
        self: Arc<Self>,
        mut states: watch::Receiver<ServerState>,
        free: impl Fn() -> Option<usize> + Send,
        first: oneshot::Sender<Result<(), PortError>>,
    ) {
        let mut first = Some(first);
        loop {
            let state = *states.borrow_and_update();
            let told = self.tell(state, free()).await;
            if let Err(error) = &told {
                tracing::warn!(%error, "the swarm could not be told about this server");
            }
            let wait = if told.is_ok() { self.config.update_period } else { AGAIN.min(self.config.update_period) };
            if let Some(first) = first.take() {
                let _ = first.send(told); // whoever started this may no longer wait
            }
            if let Ok(Err(_)) = timeout(wait, states.changed()).await {
                return;
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn offline(&self) {
        match timeout(GOODBYE, self.tell(ServerState::Offline, None)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the swarm could not be told that this server goes"),
            Err(_) => tracing::warn!("the swarm could not be told in time that this server goes"),
        }
    }

    async fn tell(&self, state: ServerState, free: Option<usize>) -> Result<(), PortError> {
        let record =
            Record { key: String::new(), subkey: self.peer.clone(), value: self.record(state, free).encode().into() };
        let prefix = &self.config.dht_prefix;
        let blocks = self.config.blocks;
        let mut records: Vec<Record> = (blocks.start()..blocks.end())
            .map(|block| Record { key: block_key(prefix, block), ..record.clone() })
            .collect();
        if !prefix.starts_with('_') {
            let model = ModelRecord { num_blocks: self.config.model_blocks, repository: None };
            records.push(Record { key: MODELS_KEY.to_owned(), subkey: prefix.clone(), value: model.encode().into() });
        }
        let life = (2 * self.config.update_period).max(Duration::from_secs(3));
        self.node.publish(&records, unix_time() + life.as_secs_f64()).await
    }

    fn record(&self, state: ServerState, free: Option<usize>) -> ServerRecord {
        let (blocks, speed) = (self.config.blocks, self.config.speed);
        let dtype = if self.config.dtype == ElementType::F32 { Dtype::F32 } else { Dtype::Bf16 };
        // K and V of each block are counted apart.
        let left = free.map(|tokens| tokens.saturating_mul(2 * blocks.len()) as u64);
        ServerRecord {
            start_block: Some(blocks.start()),
            end_block: Some(blocks.end()),
            public_name: self.config.public_name.clone(),
            version: Some(VERSION.to_owned()),
            network_rps: Some(speed.network),
            forward_rps: Some(speed.forward),
            inference_rps: Some(speed.inference),
            torch_dtype: Some(dtype.name().to_owned()),
            quant_type: Some("none".to_owned()),
            using_relay: Some(self.relayed),
            cache_tokens_left: left,
            ..ServerRecord::new(state, speed.throughput(blocks.len(), self.relayed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_what_the_slower_of_blocks_and_network_does() {
        let speed = Speed { inference: 100.0, forward: 300.0, network: 1000.0 };
        assert!((speed.throughput(5, false) - 100.0).abs() < 1e-9);
        assert!((Speed { network: 50.0, ..speed }.throughput(5, false) - 50.0).abs() < 1e-9);
        assert!((Speed { network: 50.0, ..speed }.throughput(5, true) - 10.0).abs() < 1e-9);
    }
}
