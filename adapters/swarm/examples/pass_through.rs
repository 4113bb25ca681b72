//! A server of blocks that compute nothing: `pass_through PREFIX BLOCKS HIDDEN`.
//!
//! Hidden states leave as they came, as they would where all weights of the blocks are zero, so that a client of a model whose
//! blocks fit no machine of yours can be measured. Prints the address of its swarm, and serves until it is stopped.

use std::{
    error::Error,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, ElementType, Hidden},
    ports::{BlockEngine, BlockSession, FaultKind, PortError, SessionNeed, StepInput},
};
use corolla_swarm::server::{BlockServer, Bootstrap, BootstrapConfig, ServerConfig, ServerLimits, Speed};

const USAGE: &str = "usage: pass_through PREFIX BLOCKS HIDDEN";
/// Positions that all sessions together may take.
const ROOM: usize = 65_536;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [prefix, blocks, width] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (blocks, width) = (BlockRange::first(blocks.parse()?), width.parse()?);
    let entrance = BootstrapConfig { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], ..BootstrapConfig::default() };
    let bootstrap = Bootstrap::start(entrance.clone()).await?;
    let config = ServerConfig {
        dht_prefix: prefix.clone(),
        model_blocks: blocks.len(),
        blocks,
        speed: Speed { inference: 1000.0, forward: 1000.0, network: 1000.0 },
        hidden: width,
        dtype: ElementType::Bf16,
        public_name: None,
        update_period: Duration::from_secs(60),
        limits: ServerLimits::stock(false),
    };
    let member = BootstrapConfig { initial_peers: bootstrap.addresses(), ..entrance };
    let mut server = BlockServer::join(member, config).await?;
    server.serve(Arc::new(PassThrough { blocks, width, free: Arc::new(AtomicUsize::new(ROOM)) })).await?;
    println!("{}", bootstrap.addresses().first().ok_or("no address")?);
    pending().await
}

struct PassThrough {
    blocks: BlockRange,
    width: usize,
    free: Arc<AtomicUsize>,
}

#[async_trait]
impl BlockEngine for PassThrough {
    fn hosted(&self) -> BlockRange {
        self.blocks
    }

    fn free_tokens(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    async fn open(&self, blocks: BlockRange, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if need.max_length == 0 || need.batch == 0 || !self.blocks.contains(blocks) {
            return Err(PortError::invalid("an empty session, or one over blocks that are not here"));
        }
        let wanted = need.max_length.saturating_mul(need.batch);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(wanted));
        taken.map_err(|free| PortError::new(FaultKind::Capacity, format!("{free} positions are free")))?;
        Ok(Box::new(Passing { blocks, need, width: self.width, position: 0, free: self.free.clone() }))
    }
}

struct Passing {
    blocks: BlockRange,
    need: SessionNeed,
    width: usize,
    position: usize,
    free: Arc<AtomicUsize>,
}

#[async_trait]
impl BlockSession for Passing {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        let hidden = input.hidden;
        if (hidden.batch(), hidden.width()) != (self.need.batch, self.width) {
            return Err(PortError::invalid("a step of another batch or width than the session's"));
        }
        let end = self.position + hidden.seq();
        if end > self.need.max_length {
            return Err(PortError::new(FaultKind::Capacity, "the step would pass the session's end"));
        }
        self.position = end;
        Ok(hidden)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        if to > self.position {
            return Err(PortError::invalid("cannot rewind forward"));
        }
        self.position = to;
        Ok(())
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.free.fetch_add(self.need.max_length * self.need.batch, Ordering::Relaxed);
    }
}
