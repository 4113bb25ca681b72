//! What a failure may be, how long it may take to come, and whom it may blame.

use std::time::Duration;

use corolla_domain::{
    model::RouteReport,
    ports::{FaultKind, PortError},
};

use super::{
    PATIENCE,
    schedule::Kind,
    world::{ANSWER, OPENING, World},
};

/// Pieces in which the longest history is fed again.
const PIECES: u32 = 4;

/// The latest that a step which began at 0 may fail: the patience without a route, and two rounds in which every server
/// is asked once: it opens a session and is fed the history, and opens another one and is fed again where a step had
/// been left, and does not answer the step.
pub(super) fn deadline(world: &World) -> Duration {
    let one = 2 * OPENING + (PIECES + 2) * ANSWER;
    PATIENCE.without_route + 2 * one * world.schedule.servers.len() as u32
}

/// Judges a failure of up to `steps` steps that came now; `well` is when a step went well last.
pub(super) fn fault(world: &World, fault: &PortError, well: Duration, begun: Duration, steps: u32) {
    let now = world.now();
    world.note("failed", fault.to_string(), [0, 0]);
    let text = format!("{:?} after {:?}: {fault}", fault.kind(), now - begun);
    assert!(now - begun <= deadline(world) * steps, "too late: {text}");
    match fault.kind() {
        FaultKind::Unavailable => assert!(fault.context().contains("blocks "), "which blocks? {text}"),
        FaultKind::Capacity | FaultKind::TimedOut => {}
        kind => panic!("not a fault of a swarm: {kind:?}: {text}"),
    }
    assert!(!world.schedule.could(well, now), "there were servers for all blocks: {text}");
    assert_ne!(world.schedule.kind, Kind::Steady, "{text}");
    assert_ne!(world.schedule.kind, Kind::Outage, "it was for less than the patience: {text}");
    let last_call = begun + PATIENCE.without_route;
    if steps == 1 && last_call < now {
        assert!(!world.schedule.could(last_call, now), "they were back in time: {text}");
    }
}

/// Judges the new failovers of a step that has just gone well, after one that went well at `well`.
pub(super) fn report(world: &World, before: &RouteReport, after: &RouteReport, well: Duration) {
    let hops: Vec<_> = after.hops.iter().map(|report| &report.hop).collect();
    let mut next = 0;
    for hop in &hops {
        assert_eq!(hop.blocks.start(), next, "a gap in {hops:?}");
        next = hop.blocks.end();
    }
    assert_eq!(next, world.schedule.blocks, "the end of {hops:?}");
    let fresh = after.failed_over - before.failed_over;
    for failover in after.failovers.iter().rev().take(fresh) {
        let lost = &failover.lost;
        let (_, server) = world.server(lost);
        world.note(if server.here() { "lost here" } else { "lost" }, lost.to_string(), [0, 0]);
        assert!(!world.schedule.steady(server, well, world.now()), "{} was well: {}", lost, failover.why);
        assert!(failover.by.iter().all(|hop| hops.contains(&hop)), "not in use: {failover:?}");
        for block in lost.blocks.start()..lost.blocks.end() {
            let runs = |hop: &&_| hop_runs(hop, block);
            assert_eq!(failover.by.iter().filter(runs).count(), 1, "who runs block {block}? {failover:?}");
        }
    }
}

fn hop_runs(hop: &corolla_domain::model::Hop, block: usize) -> bool {
    hop.blocks.start() <= block && block < hop.blocks.end()
}
