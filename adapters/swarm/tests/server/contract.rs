//! The contract of `RemoteSwarm`, over servers of ours: client and server speak the same language.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use corolla_domain::{
    model::{BlockRange, PeerId},
    ports::{BlockSession as _, RemoteSwarm as _, SessionNeed},
    routing::{Bans, Chain},
};
use corolla_swarm::PetalsSwarm;
use testkit::remote_swarm::{Subject, all};

use crate::{BLOCKS, House, WIDTH, blocks::Blocks, states};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_and_server_keep_the_ports_contract() {
    let house = House::new(&[(0, 3), (1, 4)]).await;
    let swarm = PetalsSwarm::start(house.client()).await.unwrap();
    let ledgers = house.ledgers.clone();
    all(&Subject {
        swarm: Arc::new(swarm),
        model: "toy".into(),
        blocks: BlockRange::first(BLOCKS),
        width: WIDTH,
        tolerance: 1e-6,
        nobody: PeerId(libp2p::PeerId::random().to_base58()),
        open_sessions: Box::new(move || {
            let open = ledgers.iter().map(|ledger| ledger.open.load(SeqCst)).sum();
            Box::pin(async move { open })
        }),
    })
    .await;
}

/// A step of two hops: the first server pushes its output to the second, which computes it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_hand_their_output_on() {
    let house = House::new(&[(0, 2), (2, 4)]).await;
    let swarm = Arc::new(PetalsSwarm::start(house.client()).await.unwrap());
    let map = swarm.map(&"toy".into()).await.unwrap();
    assert!(map.servers.len() == 2 && map.servers.iter().all(|server| server.pushes), "{map:?}");
    let need = SessionNeed { max_length: 64, batch: 1 };
    let mut chain = Chain::new(swarm, Arc::new(Bans::default()), "toy".into(), BlockRange::first(BLOCKS), need);
    let mut alone = Blocks::new(BlockRange::first(BLOCKS));
    for (nth, seq) in [5, 1, 1, 3, 1, 1, 1, 7].into_iter().enumerate() {
        let input = states(1, seq, nth);
        assert_eq!(chain.step(input.clone().into()).await.unwrap(), alone.step(&input), "step {nth}");
    }
}
