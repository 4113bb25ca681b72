//! Servers of ours over toy engines, real hosts and a real DHT on loopback: what they promise our own client, and what
//! strangers cannot do to them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should fail")]

mod backward;
#[path = "../client/blocks.rs"]
mod blocks;
mod calls;
mod contract;
mod doors;
mod engine;
mod node;
mod reach;
mod room;
mod strangers;
mod tenants;

use std::{sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden},
    ports::PortError,
};
use corolla_swarm::{
    PetalsConfig,
    rpc::{Rpc, RpcLimits},
    server::{BlockServer, Bootstrap, BootstrapConfig, ServerConfig, ServerLimits, Speed},
    transport::{Access, Host, HostConfig, PeerId},
};
use engine::{Ledger, Toy};

const PREFIX: &str = "toy-petals";
const BLOCKS: usize = 4;
const WIDTH: usize = 8;
/// Positions that a server's cache takes.
const CACHE: usize = 256;

/// A swarm of ours.
struct House {
    bootstrap: Bootstrap,
    servers: Vec<BlockServer>,
    ledgers: Vec<Arc<Ledger>>,
}

fn here() -> Vec<String> {
    vec!["/ip4/127.0.0.1/tcp/0".to_owned()]
}

/// A node to enter through, in the swarm of others or in one of its own.
async fn entrance(initial_peers: &[String]) -> Result<Bootstrap, PortError> {
    entrance_for(initial_peers, Access::default()).await
}

async fn entrance_for(initial_peers: &[String], access: Access) -> Result<Bootstrap, PortError> {
    Bootstrap::start(BootstrapConfig { access, ..member(initial_peers) }).await
}

fn member(initial_peers: &[String]) -> BootstrapConfig {
    BootstrapConfig { listen: here(), initial_peers: initial_peers.to_vec(), ..BootstrapConfig::default() }
}

fn server(range: (usize, usize)) -> ServerConfig {
    ServerConfig {
        dht_prefix: PREFIX.to_owned(),
        model_blocks: BLOCKS,
        blocks: BlockRange::new(range.0, range.1).unwrap(),
        speed: Speed { inference: 100.0, forward: 1000.0, network: 1000.0 },
        hidden: WIDTH,
        dtype: ElementType::F32,
        public_name: None,
        update_period: Duration::from_secs(60),
        limits: ServerLimits { step: Duration::from_secs(2), ..ServerLimits::stock(false) },
    }
}

impl House {
    /// Servers of these blocks, and their bootstrap node.
    async fn new(ranges: &[(usize, usize)]) -> Self {
        Self::with(ranges, |config| config).await
    }

    /// Servers of which each may do other things.
    async fn with(ranges: &[(usize, usize)], change: impl Fn(ServerConfig) -> ServerConfig) -> Self {
        Self::start(entrance(&[]).await.unwrap(), ranges, |_, member| member, change).await
    }

    /// Servers of which each enters the swarm in another way; the number is that of the server.
    async fn behind(
        bootstrap: Bootstrap,
        ranges: &[(usize, usize)],
        enter: impl Fn(usize, BootstrapConfig) -> BootstrapConfig,
    ) -> Self {
        Self::start(bootstrap, ranges, enter, |config| config).await
    }

    async fn start(
        bootstrap: Bootstrap,
        ranges: &[(usize, usize)],
        enter: impl Fn(usize, BootstrapConfig) -> BootstrapConfig,
        change: impl Fn(ServerConfig) -> ServerConfig,
    ) -> Self {
        let (mut servers, mut ledgers) = (Vec::new(), Vec::new());
        for (nth, range) in ranges.iter().enumerate() {
            let config = change(server(*range));
            let engine = Toy::new(config.blocks, CACHE);
            ledgers.push(engine.ledger.clone());
            let mut server = BlockServer::join(enter(nth, member(&bootstrap.addresses())), config).await.unwrap();
            server.serve(Arc::new(engine)).await.unwrap();
            servers.push(server);
        }
        Self { bootstrap, servers, ledgers }
    }

    fn client(&self) -> PetalsConfig {
        PetalsConfig { initial_peers: self.bootstrap.addresses(), ..PetalsConfig::new("toy", BLOCKS, WIDTH, PREFIX) }
    }

    /// A stranger who knows where the server of that number is.
    async fn stranger(&self, nth: usize) -> (Rpc, PeerId) {
        let host = Host::start(HostConfig::default()).await.unwrap();
        let peer = self.servers[nth].peer_id();
        host.add_address(peer, self.servers[nth].addresses()[0].parse().unwrap()).await;
        (Rpc::new(host, RpcLimits::default()), peer)
    }
}

/// Small whole numbers, exact in every type.
fn states(batch: usize, seq: usize, seed: usize) -> Hidden {
    let numbers: Vec<f32> = (0..batch * seq * WIDTH).map(|i| ((i * 7 + seed) % 3) as f32).collect();
    Hidden::from_f32((batch, seq, WIDTH), &numbers).unwrap()
}

/// Waits until `so`.
async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waited)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
