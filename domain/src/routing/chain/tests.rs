//! The chain over servers that add up what they are fed, and fail when told to.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{fakes::*, *};
use crate::ports::MockRemoteSwarm;

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
    let told = "no server that hosts blocks 2, 3 of m answers (waited 30.0 s): b is out of order";
    assert_eq!((fault.kind(), fault.context()), (FaultKind::Unavailable, told));
    assert_eq!(chain.position(), 1);
    faults.heal("b");
    assert_eq!(step(&mut chain, &[2.0]).await.unwrap(), [16.0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_is_reported_as_such_where_nobody_else_has_the_blocks() {
    let faults = Arc::<Faults>::default();
    faults.after("dial a", 0, FaultKind::Capacity);
    let mut chain = chain(swarm(&[("a", 0, 4)], &faults), 4);
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap_err().kind(), FaultKind::Capacity);
    faults.heal("dial a");
    assert!(step(&mut chain, &[1.0]).await.is_ok(), "a full server is not banned");
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_no_other_server_would_mend_is_passed_on() {
    let faults = Arc::<Faults>::default();
    faults.after("a", 0, FaultKind::InvalidInput);
    let mut chain = chain(swarm(&[("a", 0, 4), ("b", 0, 4)], &faults), 4);
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap_err().kind(), FaultKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn a_full_server_leads_to_another() {
    let faults = Arc::<Faults>::default();
    faults.after("dial a", 0, FaultKind::Capacity);
    let mut chain = chain(swarm(&[("a", 0, 4), ("b", 0, 2), ("c", 2, 4)], &faults), 4);
    assert_eq!(step(&mut chain, &[1.0]).await.unwrap(), [5.0]);
    assert_eq!(route(&chain), "0:2@b 2:4@c");
    // Also where it has lost the session and has no room for another.
    faults.heal("dial a");
    faults.after("c", 0, FaultKind::Capacity);
    assert_eq!(step(&mut chain, &[2.0]).await.unwrap(), [16.0]);
    assert_eq!(route(&chain), "0:2@b 2:4@a");
}

#[tokio::test(start_paused = true)]
async fn the_only_server_is_waited_for_until_the_patience_is_over() {
    for (away, in_time) in [(1, true), (29, true), (31, false)] {
        let faults = Arc::<Faults>::default();
        let mut chain = chain(swarm(&[("a", 0, 4)], &faults), 4);
        step(&mut chain, &[1.0]).await.unwrap();
        faults.after("a", 0, FaultKind::Unavailable);
        faults.after("dial a", 0, FaultKind::Unavailable);
        let returning = async {
            sleep(Duration::from_secs(away)).await;
            faults.heal("a");
            faults.heal("dial a");
        };
        let (outcome, ()) = tokio::join!(step(&mut chain, &[2.0]), returning);
        assert_eq!(outcome.is_ok(), in_time, "back after {away} s");
        let output = if in_time { outcome } else { step(&mut chain, &[2.0]).await };
        assert_eq!(output.unwrap(), [16.0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_the_map_has_dropped_is_waited_for() {
    let faults = Arc::<Faults>::default();
    let swarm = swarm(&[("a", 0, 4)], &faults);
    let mut chain = chain(swarm.clone(), 4);
    step(&mut chain, &[1.0]).await.unwrap();
    faults.after("a", 0, FaultKind::Unavailable);
    let returning = async {
        sleep(Duration::from_millis(100)).await;
        swarm.hide(true);
        sleep(Duration::from_secs(10)).await;
        faults.heal("a");
        swarm.hide(false);
    };
    let (outcome, ()) = tokio::join!(step(&mut chain, &[2.0]), returning);
    assert_eq!(outcome.unwrap(), [16.0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_only_lost_a_session_opens_another_at_once() {
    let faults = Arc::<Faults>::default();
    let mut chain = chain(swarm(&[("a", 0, 4)], &faults), 4);
    step(&mut chain, &[1.0]).await.unwrap();
    let begun = Instant::now();
    faults.once("a", FaultKind::Unavailable);
    assert_eq!(step(&mut chain, &[2.0]).await.unwrap(), [16.0]);
    assert_eq!(begun.elapsed(), 4 * CALL, "a step that fails, a dial, the history, the step");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_is_given_up_only_where_another_has_its_blocks() {
    let minute = Duration::from_secs(60);
    for (servers, given_up) in
        [(&[("a", 0, 4), ("b", 0, 3), ("c", 1, 4)][..], true), (&[("a", 0, 4), ("b", 0, 3)], false)]
    {
        let faults = Arc::<Faults>::default();
        let mut chain = chain(swarm(servers, &faults), 4);
        for value in [1.0, 2.0] {
            step(&mut chain, &[value]).await.unwrap();
        }
        faults.hangs("a", 0);
        let (begun, outcome) = (Instant::now(), timeout(minute, step(&mut chain, &[3.0])).await);
        assert_eq!(outcome.is_ok(), given_up);
        if let Ok(output) = outcome {
            assert_eq!(output.unwrap(), [41.0]);
            assert_eq!(begun.elapsed(), Patience::default().stall + 6 * CALL, "then two servers take over");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_fed_again_is_not_taken_for_stalled() {
    let faults = Arc::<Faults>::default();
    let mut chain = chain(swarm(&[("a", 0, 4), ("b", 0, 4)], &faults), 4);
    for value in 0..40 {
        step(&mut chain, &[value as f32]).await.unwrap();
    }
    let server = route(&chain);
    // After a rewind, and after a step that was left: ten times what single steps take is not enough.
    faults.slow(30 * 10 * CALL);
    let impatient = Patience { stall: 10 * CALL, ..Patience::default() };
    chain = chain.with_patience(impatient);
    chain.rewind(39).await.unwrap();
    step(&mut chain, &[1.0]).await.unwrap();
    assert!(timeout(CALL, step(&mut chain, &[1.0])).await.is_err());
    step(&mut chain, &[1.0]).await.unwrap();
    assert_eq!((route(&chain), chain.report().failed_over), (server, 0));
    // A step that need not be fed again is.
    step(&mut chain, &[1.0]).await.unwrap();
    assert_eq!(chain.report().failed_over, 1);
}

#[tokio::test(start_paused = true)]
async fn the_report_tells_who_was_lost_and_who_took_over() {
    let faults = Arc::<Faults>::default();
    let heard = Arc::<Heard>::default();
    let mut chain = chain(swarm(&[("a", 0, 4), ("b", 0, 2), ("c", 2, 4)], &faults), 4).with_observer(heard.clone());
    for value in [1.0, 2.0] {
        step(&mut chain, &[value]).await.unwrap();
    }
    let hop = |peer: &str, start, end| Hop { peer: peer.into(), blocks: BlockRange::new(start, end).unwrap() };
    let straight =
        RouteReport { hops: vec![HopReport { hop: hop("a", 0, 4), latest: CALL }], ..RouteReport::default() };
    assert_eq!(chain.report(), straight);
    faults.after("a", 0, FaultKind::Unavailable);
    step(&mut chain, &[3.0]).await.unwrap();
    let report = chain.report();
    assert_eq!(
        report.hops.iter().map(|h| &h.hop).collect::<Vec<_>>(),
        report.failovers[0].by.iter().collect::<Vec<_>>()
    );
    let failover = Failover {
        position: 2,
        lost: hop("a", 0, 4),
        why: "a is out of order".into(),
        pause: 7 * CALL, // a step that fails; for each of the two a dial, the history and the step
        by: vec![hop("b", 0, 2), hop("c", 2, 4)],
    };
    assert_eq!(*heard.0.lock().unwrap(), std::slice::from_ref(&failover));
    assert_eq!((report.failovers, report.failed_over), (vec![failover], 1));
}

/// Failovers that were told of.
#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<Failover>>);

impl Observer for Heard {
    fn observe(&self, event: &Event<'_>) {
        if let Event::FailedOver { failover, .. } = event {
            self.0.lock().unwrap().push((*failover).clone());
        }
    }
}

/// Three servers that push, two steps done; the sessions are a/1, b/2 and c/3.
async fn pushing() -> (Arc<Faults>, Chain) {
    let faults = Arc::<Faults>::default();
    faults.push();
    let servers = [("a", 0, 2), ("b", 2, 3), ("c", 3, 4), ("d", 2, 4)];
    let mut chain = chain(swarm(&servers, &faults), 4);
    faults.after("dial d", 0, FaultKind::Capacity);
    for value in [1.0, 2.0] {
        step(&mut chain, &[value]).await.unwrap();
    }
    assert_eq!(faults.relays(), "a/1> b/2> c/3> a/1>b/2,c/3 b/2>c/3 c/3>", "who is not there yet cannot be pushed to");
    (faults, chain)
}

#[tokio::test(start_paused = true)]
async fn a_step_names_the_sessions_that_its_output_can_be_pushed_to() {
    let (faults, mut chain) = pushing().await;
    chain.rewind(1).await.unwrap();
    step(&mut chain, &[2.0]).await.unwrap();
    assert_eq!(faults.relays(), "a/1> b/2> c/3>", "nobody pushes to a session that must forget something first");
    step(&mut chain, &[3.0]).await.unwrap();
    assert_eq!(faults.relays(), "a/1>b/2,c/3 b/2>c/3 c/3>");
    assert_eq!(faults.open(), "a/1 b/2 c/3", "sessions that have answered are kept");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_may_have_been_pushed_to_are_dropped_with_the_step() {
    // The server that pushes fails.
    let (faults, mut chain) = pushing().await;
    faults.once("a", FaultKind::Unavailable);
    assert_eq!(step(&mut chain, &[3.0]).await.unwrap(), [41.0]);
    assert_eq!(faults.open(), "a/4 b/5 c/6");
    // The step is dropped while a server pushes.
    let (faults, mut chain) = pushing().await;
    assert!(timeout(CALL / 2, step(&mut chain, &[3.0])).await.is_err());
    assert_eq!(step(&mut chain, &[3.0]).await.unwrap(), [41.0]);
    assert_eq!(faults.open(), "a/1 b/4 c/5");
    // The server in the middle fails: the one before it has answered already.
    let (faults, mut chain) = pushing().await;
    faults.once("b", FaultKind::Unavailable);
    assert_eq!(step(&mut chain, &[3.0]).await.unwrap(), [41.0]);
    assert_eq!(faults.open(), "a/1 b/4 c/5");
    // The last one fails: nobody was told to push any further.
    let (faults, mut chain) = pushing().await;
    faults.once("c", FaultKind::Unavailable);
    assert_eq!(step(&mut chain, &[3.0]).await.unwrap(), [41.0]);
    assert_eq!(faults.open(), "a/1 b/2 c/4");
}

/// As long as all that is tried.
const NEED: SessionNeed = SessionNeed { max_length: 64, batch: 1 };

#[tokio::test(start_paused = true)]
async fn a_fork_goes_on_by_itself_and_outlives_its_server() {
    let faults = Arc::<Faults>::default();
    faults.fork();
    let mut chain = chain(swarm(&[("a", 0, 4), ("b", 0, 4)], &faults), 4);
    let first = step(&mut chain, &[1.0, 2.0, 3.0]).await.unwrap();
    let mut fork = chain.fork(2, NEED).await.unwrap();
    assert_eq!((fork.position(), chain.position(), faults.open().as_str()), (2, 3, "a/1 a/2"));
    let own = step(&mut *fork, &[7.0]).await.unwrap();
    assert_eq!(step(&mut *fork, &[9.0]).await.unwrap().len(), 1);
    fork.rewind(2).await.unwrap();
    assert_eq!(step(&mut *fork, &[3.0]).await.unwrap(), first[2..], "as if it had gone there itself");
    let mut second = fork.fork(2, NEED).await.unwrap();
    drop(chain);
    faults.after("a", 0, FaultKind::Unavailable);
    assert_eq!(step(&mut *second, &[7.0]).await.unwrap(), own, "what it has in common was fed to b");
    assert_eq!(second.report().failed_over, 1);
    let error = second.fork(9, NEED).await.err().unwrap();
    assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_is_spread_or_nowhere_yet_is_not_forked() {
    let faults = Arc::<Faults>::default();
    faults.fork();
    let mut spread = chain(swarm(&[("a", 0, 2), ("b", 2, 4)], &faults), 4);
    for _ in 0..2 {
        let error = spread.fork(0, NEED).await.err().unwrap();
        assert_eq!(error.kind(), FaultKind::Unsupported, "{error}");
        step(&mut spread, &[1.0]).await.unwrap();
    }
    let faults = Arc::default();
    let mut unable = chain(swarm(&[("a", 0, 4)], &faults), 4);
    step(&mut unable, &[1.0]).await.unwrap();
    assert_eq!(unable.fork(1, NEED).await.err().unwrap().kind(), FaultKind::Unsupported);
}
