//! The chain over servers that add up what they are fed, and fail when told to.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::*;
use crate::{
    model::{ServerFacts, ServerInfo, SwarmMap},
    ports::MockRemoteSwarm,
};

/// A server each of whose blocks answers with the sum of all it was ever fed, plus 1: a lost, doubled or misplaced
/// position shows.
struct Summing {
    hop: Hop,
    /// For each block, its inputs.
    fed: Vec<Vec<f32>>,
    faults: Arc<Faults>,
}

/// Steps each peer still does before it fails, and how.
#[derive(Default)]
struct Faults(Mutex<HashMap<String, (usize, FaultKind)>>);

impl Faults {
    fn after(&self, peer: &str, steps: usize, kind: FaultKind) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.to_owned(), (steps, kind));
    }

    fn check(&self, peer: &PeerId) -> Result<(), PortError> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match faults.get_mut(&peer.0) {
            Some((0, kind)) => Err(PortError::new(*kind, format!("{peer} is out of order"))),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl BlockSession for Summing {
    fn blocks(&self) -> BlockRange {
        self.hop.blocks
    }

    fn position(&self) -> usize {
        self.fed[0].len()
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        self.faults.check(&self.hop.peer)?;
        let mut outputs = input.hidden.to_f32();
        for value in &mut outputs {
            for fed in &mut self.fed {
                fed.push(*value);
                *value = fed.iter().sum::<f32>() + 1.0;
            }
        }
        Hidden::from_f32((1, outputs.len(), 1), &outputs)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        self.fed.iter_mut().for_each(|fed| fed.truncate(to));
        Ok(())
    }
}

fn swarm(servers: &[(&str, usize, usize)], faults: &Arc<Faults>) -> Arc<MockRemoteSwarm> {
    let servers = servers
        .iter()
        .map(|(peer, start, end)| ServerInfo {
            peer: PeerId((*peer).to_owned()),
            blocks: BlockRange::new(*start, *end).unwrap(),
            rps: 100.0,
            rtt: None,
            next: Vec::new(),
            pushes: false,
            free_tokens: None,
            facts: ServerFacts::default(),
        })
        .collect();
    let map = Arc::new(SwarmMap { servers });
    let mut swarm = MockRemoteSwarm::new();
    swarm.expect_map().returning(move |_| Ok(map.clone()));
    let faults = faults.clone();
    swarm.expect_dial().returning(move |hop, _| {
        faults.check(&PeerId(format!("dial {}", hop.peer)))?;
        let fed = vec![Vec::new(); hop.blocks.len()];
        Ok(Box::new(Summing { hop, fed, faults: faults.clone() }))
    });
    Arc::new(swarm)
}

fn chain(swarm: Arc<MockRemoteSwarm>, blocks: usize) -> Chain {
    let need = SessionNeed { max_length: 64, batch: 1 };
    Chain::new(swarm, Arc::new(Bans::default()), "m".into(), BlockRange::first(blocks), need)
}

async fn step(chain: &mut Chain, values: &[f32]) -> Result<Vec<f32>, PortError> {
    let hidden = Hidden::from_f32((1, values.len(), 1), values).unwrap();
    chain.step(StepInput::from(hidden)).await.map(|h| h.to_f32())
}

fn route(chain: &Chain) -> String {
    chain.route().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[tokio::test(start_paused = true)]
async fn nobody_is_contacted_before_the_first_step() {
    let mut swarm = MockRemoteSwarm::new();
    swarm.expect_map().never();
    assert_eq!(chain(Arc::new(swarm), 4).position(), 0);
}

#[tokio::test(start_paused = true)]
async fn hops_join_and_rewinding_is_never_having_gone() {
    let faults = Arc::default();
    let mut chain = chain(swarm(&[("a", 0, 2), ("b", 2, 4)], &faults), 4);
    let first = step(&mut chain, &[1.0, 2.0, 3.0]).await.unwrap();
    assert_eq!(route(&chain), "0:2@a 2:4@b");
    assert_eq!(first, [5.0, 16.0, 41.0]);
    let gone = step(&mut chain, &[9.0]).await.unwrap();
    chain.rewind(2).await.unwrap();
    assert_eq!(step(&mut chain, &[3.0, 9.0]).await.unwrap(), [first[2], gone[0]]);
    assert!(chain.rewind(99).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_is_replaced_and_nothing_is_lost() {
    let run = async |deaths: &[(&str, usize, FaultKind)]| {
        let faults = Arc::<Faults>::default();
        for (peer, steps, kind) in deaths {
            faults.after(peer, *steps, *kind);
        }
        let servers = [("a", 0, 4), ("b", 0, 3), ("c", 1, 3), ("d", 2, 4), ("e", 0, 1), ("f", 3, 4)];
        let mut chain = chain(swarm(&servers, &faults), 4);
        let mut outputs = step(&mut chain, &[1.0, 2.0]).await.unwrap();
        for value in 3..9 {
            outputs.extend(step(&mut chain, &[value as f32]).await.unwrap());
        }
        (outputs, route(&chain))
    };
    let (untouched, straight) = run(&[]).await;
    assert_eq!(straight, "0:4@a");
    let gone = FaultKind::Unavailable;
    for deaths in [
        &[("a", 0, gone)][..],
        &[("a", 3, FaultKind::TimedOut)],
        &[("a", 3, gone), ("b", 2, gone)],
        &[("a", 2, gone), ("dial b", 0, gone), ("d", 1, gone)],
        &[("dial a", 0, FaultKind::Capacity), ("b", 4, gone), ("f", 3, gone)],
    ] {
        let (outputs, route) = run(deaths).await;
        assert_eq!(outputs, untouched, "{deaths:?} led over {route}");
        assert_ne!(route, straight);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_route_the_missing_blocks_are_named_and_the_session_waits_unharmed() {
    let faults = Arc::<Faults>::default();
    let mut chain = chain(swarm(&[("a", 0, 2), ("b", 2, 4)], &faults), 4);
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap(), [5.0]);
    faults.after("b", 0, FaultKind::Unavailable);
    let fault = step(&mut chain, &[2.0]).await.unwrap_err();
    let told = "no server that hosts blocks 2, 3 of m answers (waited 27.8 s): b is out of order";
    assert_eq!((fault.kind(), fault.context()), (FaultKind::Unavailable, told));
    assert_eq!(chain.position(), 1);
    faults.after("b", 99, FaultKind::Unavailable); // b is back
    assert_eq!(step(&mut chain, &[2.0]).await.unwrap(), [16.0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_is_reported_as_such_where_nobody_else_has_the_blocks() {
    let faults = Arc::<Faults>::default();
    faults.after("dial a", 0, FaultKind::Capacity);
    let mut chain = chain(swarm(&[("a", 0, 4)], &faults), 4);
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap_err().kind(), FaultKind::Capacity);
    faults.after("dial a", 99, FaultKind::Capacity);
    assert!(step(&mut chain, &[1.0]).await.is_ok(), "a full server is not banned");
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_no_other_server_would_mend_is_passed_on() {
    let faults = Arc::<Faults>::default();
    faults.after("a", 0, FaultKind::InvalidInput);
    let mut chain = chain(swarm(&[("a", 0, 4), ("b", 0, 4)], &faults), 4);
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap_err().kind(), FaultKind::InvalidInput);
}
