//! The chain where this process hosts some of the blocks itself, and others host the rest or the same.

use std::time::Duration;

use tokio::time::sleep;

use super::{fakes::*, *};
use crate::{
    ports::MockRemoteSwarm,
    routing::{InProcessSwarm, JoinedSwarm},
};

/// The servers, and blocks `start..end` in this process.
fn joined((start, end): (usize, usize), servers: &[(&str, usize, usize)], faults: &Arc<Faults>) -> Arc<JoinedSwarm> {
    let engine = Engine(BlockRange::new(start, end).unwrap(), faults.clone());
    Arc::new(JoinedSwarm::new(InProcessSwarm::new("m".into(), Arc::new(engine)), swarm(servers, faults)))
}

/// Another chain over the swarm, with the bans of all.
fn another(swarm: &Arc<JoinedSwarm>, bans: &Arc<Bans>) -> Chain {
    let need = SessionNeed { max_length: 64, batch: 1 };
    Chain::new(swarm.clone(), bans.clone(), "m".into(), BlockRange::first(4), need)
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_the_output_is_the_same() {
    let run = async |own: (usize, usize), deaths: &[(&str, usize, FaultKind)]| {
        let faults = Arc::<Faults>::default();
        for (peer, steps, kind) in deaths {
            faults.after(peer, *steps, *kind);
        }
        let servers = [("a", 0, 4), ("b", 0, 2), ("c", 1, 3), ("d", 2, 4), ("e", 0, 1), ("f", 3, 4)];
        let mut chain = chain(joined(own, &servers, &faults), 4);
        let mut outputs = step(&mut chain, &[1.0, 2.0]).await.unwrap();
        for value in 3..9 {
            outputs.extend(step(&mut chain, &[value as f32]).await.unwrap());
        }
        chain.rewind(5).await.unwrap();
        outputs.extend(step(&mut chain, &[9.0, 8.0]).await.unwrap());
        (outputs, route(&chain))
    };
    let (untouched, straight) = run((0, 4), &[]).await;
    assert_eq!(straight, "0:4@in-process");
    let gone = FaultKind::Unavailable;
    for (own, deaths, wanted) in [
        ((0, 2), &[][..], "0:2@in-process 2:4@a"),
        ((2, 4), &[], "0:2@a 2:4@in-process"),
        ((0, 2), &[("a", 3, gone)], "0:2@in-process 2:4@d"),
        ((0, 2), &[("a", 3, gone), ("d", 2, gone)], "0:2@in-process 2:3@c 3:4@f"),
        ((2, 4), &[("a", 3, gone)], "0:2@b 2:4@in-process"),
        ((1, 3), &[("a", 0, gone), ("b", 2, gone), ("d", 3, gone)], "0:1@e 1:3@in-process 3:4@f"),
        ((0, 2), &[("in-process", 3, gone)], "0:2@a 2:4@a"),
        ((0, 2), &[("dial in-process", 0, FaultKind::Capacity)], "0:4@a"),
        ((0, 4), &[("in-process", 3, gone), ("a", 2, gone)], "0:2@b 2:4@d"),
    ] {
        let (outputs, route) = run(own, deaths).await;
        assert_eq!((outputs, route), (untouched.clone(), wanted.to_owned()), "{own:?} here, {deaths:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pushes_end_where_this_process_begins() {
    let faults = Arc::<Faults>::default();
    faults.push();
    let mut chain = chain(joined((2, 3), &[("a", 0, 1), ("b", 1, 2), ("c", 3, 4), ("d", 4, 5)], &faults), 5);
    step(&mut chain, &[1.0]).await.unwrap();
    faults.relays();
    step(&mut chain, &[2.0]).await.unwrap();
    assert_eq!(route(&chain), "0:1@a 1:2@b 2:3@in-process 3:4@c 4:5@d");
    assert_eq!(faults.relays(), "a/1>b/2 b/2> in-process/3>? c/4>d/5 d/5>");
    // What is here keeps its session when a step is lost before it, or left.
    faults.once("a", FaultKind::Unavailable);
    step(&mut chain, &[3.0]).await.unwrap();
    assert_eq!(faults.open(), "a/6 b/7 c/4 d/5 in-process/3");
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_here_is_no_ban() {
    let (faults, bans) = (Arc::<Faults>::default(), Arc::<Bans>::default());
    let swarm = joined((0, 2), &[("a", 0, 4)], &faults);
    faults.after("dial in-process", 0, FaultKind::Capacity);
    let mut crowded = another(&swarm, &bans);
    step(&mut crowded, &[1.0]).await.unwrap();
    assert_eq!(route(&crowded), "0:4@a");
    faults.heal("dial in-process");
    let mut next = another(&swarm, &bans);
    step(&mut next, &[1.0]).await.unwrap();
    assert_eq!(route(&next), "0:2@in-process 2:4@a");
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_here_is_said_at_once_where_the_others_are_away() {
    let (faults, bans) = (Arc::<Faults>::default(), Arc::<Bans>::default());
    let swarm = joined((0, 2), &[("a", 0, 2), ("b", 2, 4)], &faults);
    faults.after("dial in-process", 0, FaultKind::Capacity);
    faults.after("dial a", 0, FaultKind::Unavailable);
    let mut chain = another(&swarm, &bans);
    let begun = Instant::now();
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap_err().kind(), FaultKind::Capacity);
    assert_eq!(begun.elapsed(), 2 * CALL, "room can be made here before others come back");
    // Blocks that are not here are waited for all the same.
    faults.heal("dial a");
    faults.after("dial b", 0, FaultKind::Unavailable);
    let returning = async {
        sleep(Duration::from_secs(9)).await;
        faults.heal("dial b");
    };
    let (outcome, ()) = tokio::join!(step(&mut chain, &[1.0]), returning);
    assert_eq!((outcome.unwrap(), route(&chain)), (vec![5.0], "0:2@a 2:4@b".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn blocks_here_that_broke_are_left_alone_for_a_while() {
    let (faults, bans) = (Arc::<Faults>::default(), Arc::<Bans>::default());
    let swarm = joined((0, 2), &[("a", 0, 4)], &faults);
    faults.after("in-process", 0, FaultKind::Unavailable);
    let mut first = another(&swarm, &bans);
    assert_eq!(step(&mut first, &[1.0]).await.unwrap(), [5.0]);
    faults.heal("in-process");
    for (wait, wanted) in [(14, "0:4@a"), (1, "0:2@in-process 2:4@a")] {
        sleep(Duration::from_secs(wait)).await;
        let mut chain = another(&swarm, &bans);
        step(&mut chain, &[1.0]).await.unwrap();
        assert_eq!(route(&chain), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_swarm_that_cannot_be_reached_is_named_where_it_is_needed() {
    let mut far = MockRemoteSwarm::new();
    far.expect_map().returning(|_| Err(PortError::new(FaultKind::Unavailable, "no initial peer answers")));
    let faults = Arc::<Faults>::default();
    let here = InProcessSwarm::new("m".into(), Arc::new(Engine(BlockRange::first(2), faults.clone())));
    let swarm = Arc::new(JoinedSwarm::new(here, Arc::new(far)));
    let fault = step(&mut chain(swarm.clone(), 4), &[1.0]).await.unwrap_err();
    let told = "no server is known for blocks 2, 3 of m: the swarm could not be reached: no initial peer answers";
    assert_eq!((fault.kind(), fault.context()), (FaultKind::Unavailable, told));
    assert_eq!(faults.open(), "", "nothing is opened for a reply that cannot be");
    assert_eq!(step(&mut chain(swarm.clone(), 2), &[1.0]).await.unwrap(), [3.0], "what is here works");
    faults.after("in-process", 0, FaultKind::Unavailable);
    let fault = step(&mut chain(swarm, 2), &[1.0]).await.unwrap_err();
    assert!(fault.context().ends_with("in-process is out of order; others are not known: no initial peer answers"));
}
