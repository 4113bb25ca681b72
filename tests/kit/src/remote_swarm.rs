//! Contract of [`RemoteSwarm`] and the sessions it dials: one function per promise, [`all`] for the lot.

use std::{future::Future, sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, Hidden, Hop, ModelId, PeerId, SwarmMap},
    ports::{BlockSession, FaultKind, PortError, RemoteSwarm, SessionNeed, StepInput},
    routing::plan,
};
use futures_util::future::{BoxFuture, join};

use crate::local_model::{assert_near, noise};

/// Positions of the longest session that is tried.
pub const LONGEST: usize = 48;
/// How long anything here may take, the refusal of a peer that is not there included.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A swarm to be tried, and what an observer on its far side sees.
pub struct Subject {
    /// The swarm. Every block of the model is hosted, and each server has room for four sessions of [`LONGEST`].
    pub swarm: Arc<dyn RemoteSwarm>,
    /// A model that it knows.
    pub model: ModelId,
    /// The blocks of that model.
    pub blocks: BlockRange,
    /// Width of its hidden states.
    pub width: usize,
    /// How far two computations of the same number may be apart, as a part of the largest number.
    pub tolerance: f32,
    /// A well-formed name of a peer that does not exist.
    pub nobody: PeerId,
    /// How many sessions are open on the far side now, over all servers.
    pub open_sessions: OpenSessions,
}

/// Asks the far side how many sessions it has open.
pub type OpenSessions = Box<dyn Fn() -> BoxFuture<'static, usize> + Send + Sync>;

impl Subject {
    async fn map(&self) -> Arc<SwarmMap> {
        in_time(self.swarm.map(&self.model)).await.expect("a map")
    }

    /// A session at each hop of the best route.
    async fn route(&self, batch: usize) -> Route {
        let need = SessionNeed { max_length: LONGEST, batch };
        let hops = plan(&*self.map().await, self.blocks, LONGEST * batch, |_| false).expect("a route");
        let mut sessions = Vec::new();
        for hop in hops {
            let session = in_time(self.swarm.dial(hop.clone(), need)).await.expect("a session");
            assert_eq!((session.blocks(), session.position()), (hop.blocks, 0), "a new session at {hop}");
            sessions.push(session);
        }
        Route(sessions)
    }

    /// A session at the first hop of the best route.
    async fn lone(&self) -> Box<dyn BlockSession> {
        self.route(1).await.0.swap_remove(0)
    }

    fn states(&self, batch: usize, seq: usize, seed: u64) -> Hidden {
        let shape = (batch, seq, self.width);
        Hidden::from_f32(shape, &noise(batch * seq * self.width, seed)).expect("a shape that fits")
    }

    fn near(&self, found: &Hidden, wanted: &Hidden, what: &str) {
        assert_eq!((found.batch(), found.seq()), (wanted.batch(), wanted.seq()), "the shape of {what}");
        assert_near(&found.to_f32(), &wanted.to_f32(), self.tolerance, what);
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> PortError {
        let dialled = in_time(self.swarm.dial(hop, need)).await;
        dialled.err().expect("a refusal")
    }

    /// Waits until the far side has `wanted` sessions open.
    async fn until_open(&self, wanted: usize, what: &str) {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut last = usize::MAX;
        let reached = async {
            while last != wanted {
                ticks.tick().await;
                last = (self.open_sessions)().await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{what}: {last} sessions are open on the far side instead of {wanted}");
    }
}

/// Sessions from the first block to the last.
struct Route(Vec<Box<dyn BlockSession>>);

impl Route {
    async fn step(&mut self, hidden: &Hidden) -> Hidden {
        let mut state = hidden.clone();
        for session in &mut self.0 {
            state = step(&mut **session, &state).await;
        }
        state
    }

    /// Steps of those lengths, joined.
    async fn steps(&mut self, hidden: &Hidden, lengths: &[usize]) -> Hidden {
        let (mut pieces, mut at) = (Vec::new(), 0);
        for length in lengths {
            pieces.push(self.step(&hidden.positions(at, at + length).expect("positions")).await);
            at += length;
        }
        Hidden::concat(&pieces).expect("pieces of one conversation")
    }
}

async fn step(session: &mut dyn BlockSession, hidden: &Hidden) -> Hidden {
    in_time(session.step(StepInput::from(hidden.clone()))).await.expect("a step")
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("an answer in time")
}

/// All promises, one after the other on the same swarm.
pub async fn all(subject: &Subject) {
    the_map_names_every_block(subject).await;
    an_unknown_model_is_not_found(subject).await;
    dialling_opens_a_session_on_the_far_side_and_dropping_closes_it(subject).await;
    a_step_keeps_the_shape_and_moves_the_position(subject).await;
    prefill_and_single_steps_equal_one_prefill(subject).await;
    a_part_of_a_servers_blocks_can_be_used(subject).await;
    rows_of_a_batch_equal_lone_sessions(subject).await;
    forward_equals_the_first_step_of_a_session(subject).await;
    sessions_do_not_see_each_other(subject).await;
    rewinding_equals_never_having_gone(subject).await;
    a_dropped_step_was_never_called(subject).await;
    bad_steps_are_refused_and_do_no_harm(subject).await;
    a_hop_that_is_not_there_is_unavailable(subject).await;
    impossible_hops_and_needs_are_refused(subject).await;
    nothing_is_left_open(subject).await;
}

/// Every block of the model is hosted by somebody, at a speed that can be reckoned with; the map comes at once.
pub async fn the_map_names_every_block(subject: &Subject) {
    let map = subject.map().await;
    assert_eq!(map.missing(subject.blocks), Vec::<usize>::new(), "blocks that nobody hosts");
    for server in &map.servers {
        assert!(
            subject.blocks.contains(server.blocks),
            "{} hosts {} of {}",
            server.peer,
            server.blocks,
            subject.blocks
        );
        assert!(server.rps.is_finite() && server.rps > 0.0, "{} does {} steps a second", server.peer, server.rps);
    }
    let second = tokio::time::timeout(Duration::from_secs(1), subject.swarm.map(&subject.model)).await;
    second.expect("a map that is known already comes at once").expect("a map");
}

/// A model that nobody hosts is `NotFound`, and its name is in the sentence.
pub async fn an_unknown_model_is_not_found(subject: &Subject) {
    let unknown = ModelId("nobody-hosts-this".to_owned());
    let error = in_time(subject.swarm.map(&unknown)).await.expect_err("a model that nobody hosts");
    assert_eq!(error.kind(), FaultKind::NotFound, "{error}");
    assert!(error.context().contains(&unknown.0), "`{error}` should name {unknown}");
}

/// A session that was dialled and stepped is open at its server; dropping it closes it there, not at some time-out.
pub async fn dialling_opens_a_session_on_the_far_side_and_dropping_closes_it(subject: &Subject) {
    subject.until_open(0, "before the first session").await;
    let (mut first, mut second) = (subject.lone().await, subject.lone().await);
    step(&mut *first, &subject.states(1, 3, 1)).await;
    step(&mut *second, &subject.states(1, 3, 1)).await;
    subject.until_open(2, "two sessions").await;
    drop(first);
    subject.until_open(1, "one of two sessions was dropped").await;
    step(&mut *second, &subject.states(1, 1, 2)).await;
    drop(second);
    subject.until_open(0, "both sessions were dropped").await;
}

/// The result has the shape of the input; the position moves by its length.
pub async fn a_step_keeps_the_shape_and_moves_the_position(subject: &Subject) {
    let mut session = subject.lone().await;
    let out = step(&mut *session, &subject.states(1, 5, 3)).await;
    assert_eq!((out.batch(), out.seq(), out.width()), (1, 5, subject.width));
    assert!(out.to_f32().iter().all(|v| v.is_finite()));
    step(&mut *session, &subject.states(1, 1, 4)).await;
    assert_eq!(session.position(), 6);
}

/// A prompt at once and then one position after the other equals all positions at once, over all hops.
pub async fn prefill_and_single_steps_equal_one_prefill(subject: &Subject) {
    let hidden = subject.states(1, 24, 5);
    let whole = subject.route(1).await.step(&hidden).await;
    for lengths in [&[16, 1, 1, 1, 1, 1, 1, 1, 1][..], &[1, 23], &[7, 1, 16]] {
        let pieces = subject.route(1).await.steps(&hidden, lengths).await;
        subject.near(&pieces, &whole, &format!("steps of {lengths:?}"));
    }
}

/// A server that hosts several blocks runs any of them alone: one after the other they give what all at once give.
pub async fn a_part_of_a_servers_blocks_can_be_used(subject: &Subject) {
    let map = subject.map().await;
    let Some(server) = map.servers.iter().find(|server| server.blocks.len() > 1) else {
        return;
    };
    let hidden = subject.states(1, 6, 6);
    let need = SessionNeed { max_length: LONGEST, batch: 1 };
    let at = |start, end| {
        let blocks = BlockRange::new(start, end).expect("a run of blocks");
        subject.swarm.dial(Hop { peer: server.peer.clone(), blocks }, need)
    };
    let (start, end) = (server.blocks.start(), server.blocks.end());
    let whole = step(&mut *in_time(at(start, end)).await.expect("a session"), &hidden).await;
    let below = step(&mut *in_time(at(start, start + 1)).await.expect("a session"), &hidden).await;
    let above = step(&mut *in_time(at(start + 1, end)).await.expect("a session"), &below).await;
    subject.near(&above, &whole, "the upper blocks after the first one");
}

/// Each row of a batch equals a session of its own.
pub async fn rows_of_a_batch_equal_lone_sessions(subject: &Subject) {
    let hidden = subject.states(2, 8, 7);
    let together = subject.route(2).await.steps(&hidden, &[5, 1, 2]).await;
    let row = 8 * subject.width;
    for nth in 0..2 {
        let of = |hidden: &Hidden| {
            let numbers = &hidden.to_f32()[nth * row..(nth + 1) * row];
            Hidden::from_f32((1, 8, subject.width), numbers).expect("one row")
        };
        let alone = subject.route(1).await.steps(&of(&hidden), &[5, 1, 2]).await;
        subject.near(&of(&together), &alone, "a row of a batch");
    }
}

/// Blocks without a cache give what a session's first step gives, for one row and for several, and leave nothing open.
pub async fn forward_equals_the_first_step_of_a_session(subject: &Subject) {
    for (batch, seq) in [(1, 1), (1, 11), (3, 7)] {
        let hidden = subject.states(batch, seq, 19);
        let wanted = subject.route(batch).await.step(&hidden).await;
        let mut state = hidden;
        for hop in plan(&*subject.map().await, subject.blocks, 0, |_| false).expect("a route") {
            state = in_time(subject.swarm.forward(hop, state)).await.expect("hidden states");
        }
        subject.near(&state, &wanted, "a forward pass without a session");
    }
    let nowhere = Hop { peer: subject.nobody.clone(), blocks: subject.blocks };
    let error = in_time(subject.swarm.forward(nowhere, subject.states(1, 1, 19))).await.expect_err("a refusal");
    assert!(matches!(error.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{:?}: {error}", error.kind());
    subject.until_open(0, "after forward passes").await;
}

/// Sessions that run side by side give what they would give alone.
pub async fn sessions_do_not_see_each_other(subject: &Subject) {
    let (a, b) = (subject.states(1, 10, 8), subject.states(1, 10, 9));
    let alone_a = subject.route(1).await.step(&a).await;
    let alone_b = subject.route(1).await.step(&b).await;
    let (mut first, mut second) = (subject.route(1).await, subject.route(1).await);
    let lengths = [2, 1, 3, 1, 3];
    let (from_a, from_b) = join(first.steps(&a, &lengths), second.steps(&b, &lengths)).await;
    subject.near(&from_a, &alone_a, "the first of two sessions");
    subject.near(&from_b, &alone_b, "the second of two sessions");
}

/// Going, rewinding and going elsewhere equals going there at once, also to the very beginning.
pub async fn rewinding_equals_never_having_gone(subject: &Subject) {
    let (begin, wrong, right) = (subject.states(1, 6, 10), subject.states(1, 7, 11), subject.states(1, 5, 12));
    let both = Hidden::concat(&[begin.clone(), right.clone()]).expect("pieces of one conversation");
    let wanted = step(&mut *subject.lone().await, &both).await;
    let wanted_end = wanted.positions(6, 11).expect("positions");
    let mut session = subject.lone().await;
    step(&mut *session, &begin).await;
    step(&mut *session, &wrong).await;
    in_time(session.rewind(6)).await.expect("rewinding");
    assert_eq!(session.position(), 6);
    subject.near(&step(&mut *session, &right).await, &wanted_end, "a step after rewinding");
    in_time(session.rewind(0)).await.expect("rewinding to the beginning");
    subject.near(&step(&mut *session, &both).await, &wanted, "a step after rewinding to the beginning");
    let error = in_time(session.rewind(12)).await.expect_err("rewinding forward is refused");
    assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
}

/// A step whose future was dropped, polled or not, leaves the session as if it had not been called.
pub async fn a_dropped_step_was_never_called(subject: &Subject) {
    let hidden = subject.states(1, 12, 13);
    let whole = step(&mut *subject.lone().await, &hidden).await;
    let mut session = subject.lone().await;
    let mut pieces = Vec::new();
    for (nth, at) in (0..12).step_by(4).enumerate() {
        let input = StepInput::from(subject.states(1, 1 + nth, 14));
        drop(session.step(input.clone()));
        let a_moment = Duration::from_micros(500 * nth as u64);
        if tokio::time::timeout(a_moment, session.step(input)).await.is_ok() {
            in_time(session.rewind(at)).await.expect("rewinding a step that was faster");
        }
        assert_eq!(session.position(), at);
        pieces.push(step(&mut *session, &hidden.positions(at, at + 4).expect("positions")).await);
    }
    subject.near(&Hidden::concat(&pieces).expect("pieces"), &whole, "steps between dropped ones");
}

/// A step past the end is `Capacity`, one of another batch or width `InvalidInput`; the session goes on as before.
pub async fn bad_steps_are_refused_and_do_no_harm(subject: &Subject) {
    let hidden = subject.states(1, 9, 15);
    let wanted = step(&mut *subject.lone().await, &hidden).await;
    let mut session = subject.lone().await;
    let begun = step(&mut *session, &hidden.positions(0, 4).expect("positions")).await;
    let width = subject.width + 1;
    let wide = Hidden::from_f32((1, 2, width), &noise(2 * width, 16)).expect("a shape that fits");
    let bad = [
        (FaultKind::Capacity, subject.states(1, LONGEST - 3, 17)),
        (FaultKind::InvalidInput, subject.states(2, 1, 18)),
        (FaultKind::InvalidInput, wide),
    ];
    for (kind, hidden) in bad {
        let error = in_time(session.step(StepInput::from(hidden))).await.expect_err("a refusal");
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(session.position(), 4);
    }
    let ended = step(&mut *session, &hidden.positions(4, 9).expect("positions")).await;
    subject.near(&Hidden::concat(&[begun, ended]).expect("pieces"), &wanted, "steps around refused ones");
}

/// A peer that nobody knows is `Unavailable` or `TimedOut`, soon.
pub async fn a_hop_that_is_not_there_is_unavailable(subject: &Subject) {
    let hop = Hop { peer: subject.nobody.clone(), blocks: subject.blocks };
    let error = subject.dial(hop, SessionNeed { max_length: 8, batch: 1 }).await;
    assert!(matches!(error.kind(), FaultKind::Unavailable | FaultKind::TimedOut), "{:?}: {error}", error.kind());
}

/// Blocks beyond the model and needs of nothing are `InvalidInput`.
pub async fn impossible_hops_and_needs_are_refused(subject: &Subject) {
    let map = subject.map().await;
    let server = map.servers.first().expect("a server");
    let end = subject.blocks.end();
    let beyond = BlockRange::new(end, end + 1).expect("a run of blocks");
    for (blocks, max_length, batch) in [(beyond, 8, 1), (server.blocks, 0, 1), (server.blocks, 8, 0)] {
        let hop = Hop { peer: server.peer.clone(), blocks };
        let error = subject.dial(hop, SessionNeed { max_length, batch }).await;
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
}

/// After all of this, the far side has no session left.
pub async fn nothing_is_left_open(subject: &Subject) {
    subject.until_open(0, "after all sessions were dropped").await;
}
