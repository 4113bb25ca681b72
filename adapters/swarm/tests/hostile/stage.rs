//! A client, a villain, and a healthy server for the same blocks.

use std::{sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden, Hop, ModelId, PeerId},
    ports::{BlockSession, PortError, RemoteSwarm, SessionNeed},
    routing::{Bans, Chain},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm};
use tokio::time::Instant;

use crate::{
    fake::{BLOCKS, Fake, History, PREFIX, WIDTH},
    villain::Villain,
};

/// More positions than the healthy server has room for: it is the last resort, so that the villain is asked first.
const NEED: SessionNeed = SessionNeed { max_length: 4096, batch: 1 };

pub(crate) struct Stage {
    pub(crate) villain: Villain,
    pub(crate) healthy: Fake,
    pub(crate) swarm: Arc<PetalsSwarm>,
}

impl Stage {
    /// A stage where a server may take `patience` over one message.
    pub(crate) async fn new(patience: Duration) -> Self {
        let (villain, healthy) = (Villain::start().await, Fake::start(ElementType::F32).await);
        let config = config(vec![villain.address(), healthy.address()], patience);
        let swarm = Arc::new(PetalsSwarm::start(config).await.unwrap());
        let map = swarm.map(&model()).await.unwrap();
        assert_eq!(map.servers.len(), 2, "{map:?}");
        Self { villain, healthy, swarm }
    }

    /// A session at the villain.
    pub(crate) async fn dial(&self) -> Result<Box<dyn BlockSession>, PortError> {
        let hop = Hop { peer: PeerId(self.villain.name()), blocks: BlockRange::first(BLOCKS) };
        self.swarm.dial(hop, NEED).await
    }

    /// Two steps through the blocks, wherever they are: the right numbers come out, the villain is banned for what it
    /// did, and the healthy server has taken over.
    pub(crate) async fn assert_taken_over(&self, what: &str) {
        let bans = Arc::new(Bans::default());
        let mut chain = Chain::new(self.swarm.clone(), bans.clone(), model(), BlockRange::first(BLOCKS), NEED);
        let (begin, rest) = (states(5, 1), states(3, 3));
        let wanted = History::default().step(&Hidden::concat(&[begin.clone(), rest.clone()]).unwrap());
        let villain = PeerId(self.villain.name());
        for (input, from) in [(begin, 0), (rest, 5)] {
            let output = step(&mut chain, &input).await.unwrap_or_else(|fault| panic!("{what}: {fault}"));
            assert_eq!(output, wanted.positions(from, from + input.seq()).unwrap(), "{what}");
        }
        assert!(bans.banned(&villain, Instant::now()), "{what}: the villain is not banned");
        let route: Vec<PeerId> = chain.route().into_iter().map(|hop| hop.peer).collect();
        assert_eq!(route, [PeerId(self.healthy.host.peer_id().to_base58())], "{what}");
    }
}

pub(crate) fn model() -> ModelId {
    "fake".into()
}

pub(crate) fn config(initial_peers: Vec<String>, request_timeout: Duration) -> PetalsConfig {
    PetalsConfig { initial_peers, request_timeout, ..PetalsConfig::new(model(), BLOCKS, WIDTH, PREFIX) }
}

/// Small whole numbers.
pub(crate) fn states(seq: usize, seed: usize) -> Hidden {
    let numbers: Vec<f32> = (0..seq * WIDTH).map(|i| ((i * 7 + seed) % 3) as f32).collect();
    Hidden::from_f32((1, seq, WIDTH), &numbers).unwrap()
}

pub(crate) async fn step(session: &mut dyn BlockSession, hidden: &Hidden) -> Result<Hidden, PortError> {
    session.step(hidden.clone().into()).await
}
