//! Which blocks, for which swarm, and what callers may ask.

use std::{path::PathBuf, time::Duration};

use corolla_domain::{
    model::{BlockRange, ElementType},
    ports::PortError,
};

use super::{announce::Speed, reach::Reach};
use crate::{
    transport::{Access, Multiaddr, listen_addresses},
    wire::server::check_prefix,
};

/// What a [`Bootstrap`](super::Bootstrap) node is told when it starts.
#[derive(Debug, Clone, Default)]
pub struct BootstrapConfig {
    /// Where to listen.
    pub listen: Vec<String>,
    /// The file of its key; `None`: a fresh one each time.
    pub identity: Option<PathBuf>,
    /// Nodes of the swarm to enter; none: it begins one of its own.
    pub initial_peers: Vec<String>,
    /// With whom to have to do at all.
    pub access: Access,
    /// Whether others reach it directly.
    pub reach: Reach,
}

/// What a [`BlockServer`](super::BlockServer) is told when it starts.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// What the swarm publishes the model's blocks under.
    pub dht_prefix: String,
    /// Blocks of the whole model.
    pub model_blocks: usize,
    /// The blocks this server has; a [`Tenant`](super::Tenant) that chooses for itself takes as many.
    pub blocks: BlockRange,
    /// How fast it is, measured before.
    pub speed: Speed,
    /// Numbers of a hidden state.
    pub hidden: usize,
    /// The type that hidden states leave in: single precision, or bfloat16.
    pub dtype: ElementType,
    /// The operator's name for it.
    pub public_name: Option<String>,
    /// How often it announces itself.
    pub update_period: Duration,
    /// What callers may ask.
    pub limits: ServerLimits,
}

/// What callers may ask (wire protocol §8.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Rows times positions of one step or pass.
    pub max_batch: usize,
    /// Positions of one session.
    pub max_length: usize,
    /// How long a pass may take, its way here included.
    pub request: Duration,
    /// How long a session may last.
    pub session: Duration,
    /// How long a session may say nothing.
    pub step: Duration,
    /// How long a session may wait for room in the cache, whatever it asks for.
    pub waiting: Duration,
    /// Sessions at a time, and those of one peer.
    pub sessions: usize,
    /// Sessions of one peer at a time.
    pub sessions_of_peer: usize,
    /// Bytes of what callers send, from the first that arrives until it is done with, and of what passes send back: those
    /// of all callers together.
    pub room: usize,
}

impl ServerLimits {
    /// The reference's for a model whose heads share keys and values, and for one whose heads do not.
    #[must_use]
    pub fn stock(grouped: bool) -> Self {
        let s = Duration::from_secs;
        let tokens = if grouped { 8192 } else { 2048 };
        Self {
            max_batch: tokens,
            max_length: tokens,
            request: s(180),
            session: s(1800),
            step: s(300),
            waiting: s(600),
            sessions: 1024,
            sessions_of_peer: 256,
            room: 1 << 30,
        }
    }
}

impl ServerConfig {
    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), PortError> {
        check_prefix(&self.dht_prefix)?;
        if self.blocks.end() > self.model_blocks {
            let text = format!("blocks {} of a model with {} blocks", self.blocks, self.model_blocks);
            return Err(PortError::invalid(text));
        }
        if self.hidden == 0 || self.update_period.is_zero() {
            return Err(PortError::invalid("hidden and the update period of a server must be above 0"));
        }
        let Speed { inference, forward, network } = self.speed;
        if ![inference, forward, network].into_iter().all(|rate| rate.is_finite() && rate >= 0.0) {
            return Err(PortError::invalid("the speed of a server must be finite and not negative"));
        }
        if self.dtype == ElementType::F16 {
            return Err(PortError::invalid("hidden states leave a server in f32 or bf16"));
        }
        Ok(())
    }
}

impl BootstrapConfig {
    /// The addresses to listen on, read.
    pub(super) fn addresses(&self) -> Result<Vec<Multiaddr>, PortError> {
        if self.listen.is_empty() {
            return Err(PortError::invalid("there is no address to listen on"));
        }
        listen_addresses(&self.listen)
    }
}
