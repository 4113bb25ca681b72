//! Contract of [`BlockEngine`] and its sessions: one function per promise, [`all`] for the lot.

mod backward;

use std::{future::Future, sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BlockEngine, BlockSession, FaultKind, SessionNeed, StepInput},
};
use futures_util::future::{join, join_all};

use crate::local_model::{assert_near, noise};

pub use backward::{
    gradients_equal_numerical_differences, gradients_go_from_part_to_part, gradients_leave_sessions_alone,
    gradients_of_what_does_not_fit_are_refused,
};

/// Positions of the longest session that is tried.
pub const LONGEST: usize = 48;
/// What [`BlockEngine::free_tokens`] must at least be before the suite begins.
pub const FREE_TOKENS: usize = 6 * LONGEST;

/// An engine to be tried.
pub struct Subject {
    /// The engine. It hosts at least two blocks, has [`FREE_TOKENS`] free, and computes gradients.
    pub engine: Arc<dyn BlockEngine>,
    /// Width of its hidden states.
    pub width: usize,
    /// How far two computations of the same number may be apart, as a part of the largest number.
    pub tolerance: f32,
}

impl Subject {
    async fn session(&self, blocks: BlockRange, batch: usize) -> Box<dyn BlockSession> {
        self.engine.open(blocks, SessionNeed { max_length: LONGEST, batch }).await.expect("a session")
    }

    /// A session over everything, with one row.
    async fn lone(&self) -> Box<dyn BlockSession> {
        self.session(self.engine.hosted(), 1).await
    }

    fn states(&self, batch: usize, seq: usize, seed: u64) -> Hidden {
        let shape = (batch, seq, self.width);
        Hidden::from_f32(shape, &noise(batch * seq * self.width, seed)).expect("a shape that fits")
    }

    fn near(&self, found: &Hidden, wanted: &Hidden, what: &str) {
        assert_eq!((found.batch(), found.seq()), (wanted.batch(), wanted.seq()), "the shape of {what}");
        assert_near(&found.to_f32(), &wanted.to_f32(), self.tolerance, what);
    }
}

async fn step(session: &mut dyn BlockSession, hidden: &Hidden) -> Hidden {
    session.step(StepInput::from(hidden.clone())).await.expect("a step")
}

/// Steps of those lengths, joined.
async fn steps(session: &mut dyn BlockSession, hidden: &Hidden, lengths: &[usize]) -> Hidden {
    let mut pieces = Vec::new();
    let mut at = 0;
    for length in lengths {
        pieces.push(step(session, &hidden.positions(at, at + length).expect("positions")).await);
        at += length;
    }
    Hidden::concat(&pieces).expect("pieces of one conversation")
}

/// All promises, each with an engine that `make` makes.
pub async fn all<F: Future<Output = Subject>>(make: impl Fn() -> F) {
    a_step_keeps_the_shape_and_moves_the_position(&make().await).await;
    prefill_and_single_steps_equal_one_prefill(&make().await).await;
    any_chunking_gives_the_same(&make().await).await;
    two_halves_of_the_blocks_equal_the_whole(&make().await).await;
    rewinding_equals_never_having_gone(&make().await).await;
    rewinding_forward_is_refused(&make().await).await;
    past_the_end_is_capacity_and_does_no_harm(&make().await).await;
    a_wrong_batch_or_width_is_refused_and_does_no_harm(&make().await).await;
    rows_of_a_batch_equal_lone_sessions(&make().await).await;
    sessions_do_not_see_each_other(&make().await).await;
    sessions_at_once_equal_lone_ones(&make().await).await;
    a_dropped_step_was_never_called(&make().await).await;
    reordered_rows_go_on_as_those_they_were(&make().await).await;
    forks_go_on_as_lone_sessions(&make().await).await;
    impossible_forks_are_refused_and_set_nothing_aside(&make().await).await;
    opening_sets_cache_aside_and_dropping_gives_it_back(&make().await).await;
    a_full_cache_is_capacity_and_sets_nothing_aside(&make().await).await;
    impossible_needs_are_refused(&make().await).await;
    gradients_equal_numerical_differences(&make().await).await;
    gradients_go_from_part_to_part(&make().await).await;
    gradients_of_what_does_not_fit_are_refused(&make().await).await;
    gradients_leave_sessions_alone(&make().await).await;
}

/// The result has the shape of the input; the position moves by its length.
pub async fn a_step_keeps_the_shape_and_moves_the_position(subject: &Subject) {
    let mut session = subject.session(subject.engine.hosted(), 2).await;
    assert_eq!((session.position(), session.blocks()), (0, subject.engine.hosted()));
    let out = step(&mut *session, &subject.states(2, 5, 1)).await;
    assert_eq!((out.batch(), out.seq(), out.width()), (2, 5, subject.width));
    assert!(out.to_f32().iter().all(|v| v.is_finite()));
    step(&mut *session, &subject.states(2, 1, 2)).await;
    assert_eq!(session.position(), 6);
}

/// A prompt at once and then one position after the other equals all positions at once.
pub async fn prefill_and_single_steps_equal_one_prefill(subject: &Subject) {
    let hidden = subject.states(1, 24, 3);
    let whole = step(&mut *subject.lone().await, &hidden).await;
    let mut lengths = vec![16];
    lengths.resize(9, 1);
    let pieces = steps(&mut *subject.lone().await, &hidden, &lengths).await;
    subject.near(&pieces, &whole, "a prefill and single steps");
}

/// However the positions are cut into steps, the result is the same.
pub async fn any_chunking_gives_the_same(subject: &Subject) {
    let hidden = subject.states(2, 30, 4);
    let whole = step(&mut *subject.session(subject.engine.hosted(), 2).await, &hidden).await;
    for lengths in [&[15, 15][..], &[1, 29], &[29, 1], &[2, 3, 5, 7, 13], &[4, 5, 6, 7, 8]] {
        let pieces = steps(&mut *subject.session(subject.engine.hosted(), 2).await, &hidden, lengths).await;
        subject.near(&pieces, &whole, &format!("steps of {lengths:?}"));
    }
}

/// Blocks `0..k` and then `k..n` give what `0..n` gives, wherever the cut is.
pub async fn two_halves_of_the_blocks_equal_the_whole(subject: &Subject) {
    let all = subject.engine.hosted();
    let hidden = subject.states(1, 9, 5);
    let whole = step(&mut *subject.lone().await, &hidden).await;
    for cut in all.start() + 1..all.end() {
        let half = |start, end| BlockRange::new(start, end).expect("a run of blocks");
        let mut below = subject.session(half(all.start(), cut), 1).await;
        let mut above = subject.session(half(cut, all.end()), 1).await;
        let between = step(&mut *below, &hidden).await;
        subject.near(&step(&mut *above, &between).await, &whole, "the upper blocks after the lower ones");
    }
}

/// Going, rewinding and going elsewhere equals going there at once, also to the very beginning.
pub async fn rewinding_equals_never_having_gone(subject: &Subject) {
    let (begin, wrong, right) = (subject.states(1, 6, 6), subject.states(1, 7, 7), subject.states(1, 5, 8));
    let mut straight = subject.lone().await;
    step(&mut *straight, &begin).await;
    let wanted = step(&mut *straight, &right).await;
    let mut winding = subject.lone().await;
    step(&mut *winding, &begin).await;
    step(&mut *winding, &wrong).await;
    winding.rewind(6).await.expect("rewinding");
    assert_eq!(winding.position(), 6);
    subject.near(&step(&mut *winding, &right).await, &wanted, "a step after rewinding");
    winding.rewind(0).await.expect("rewinding to the beginning");
    let again = Hidden::concat(&[begin, right]).expect("pieces of one conversation");
    let again = step(&mut *winding, &again).await;
    subject.near(&again.positions(6, 11).expect("positions"), &wanted, "a step after rewinding to the beginning");
}

/// Rewinding to where the session is not yet is `InvalidInput`; to where it is, it changes nothing.
pub async fn rewinding_forward_is_refused(subject: &Subject) {
    let mut session = subject.lone().await;
    step(&mut *session, &subject.states(1, 3, 9)).await;
    let error = session.rewind(4).await.expect_err("rewinding forward is refused");
    assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    session.rewind(3).await.expect("rewinding to the position");
    assert_eq!(session.position(), 3);
}

/// A step past `max_length` is `Capacity`; the session goes on as if it had not been called, up to its last position.
pub async fn past_the_end_is_capacity_and_does_no_harm(subject: &Subject) {
    let hidden = subject.states(1, LONGEST, 10);
    let whole = step(&mut *subject.lone().await, &hidden).await;
    let mut session = subject.lone().await;
    let begun = step(&mut *session, &hidden.positions(0, 40).expect("positions")).await;
    for beyond in [LONGEST - 39, LONGEST] {
        let input = StepInput::from(subject.states(1, beyond, 12));
        let error = session.step(input).await.expect_err("a step past the end is refused");
        assert_eq!(error.kind(), FaultKind::Capacity, "{error}");
        assert_eq!(session.position(), 40);
    }
    let ended = step(&mut *session, &hidden.positions(40, LONGEST).expect("positions")).await;
    assert_eq!(session.position(), LONGEST);
    subject.near(&Hidden::concat(&[begun, ended]).expect("pieces"), &whole, "a session after a step past its end");
}

/// Another batch or width than the session's is `InvalidInput`, and changes nothing.
pub async fn a_wrong_batch_or_width_is_refused_and_does_no_harm(subject: &Subject) {
    let hidden = subject.states(1, 4, 13);
    let wanted = step(&mut *subject.lone().await, &hidden).await;
    let mut session = subject.lone().await;
    let width = subject.width + 1;
    let wide = Hidden::from_f32((1, 2, width), &noise(2 * width, 1)).expect("a shape that fits");
    for bad in [subject.states(2, 2, 14), wide] {
        let error = session.step(StepInput::from(bad)).await.expect_err("a wrong shape is refused");
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
    assert_eq!(session.position(), 0);
    subject.near(&step(&mut *session, &hidden).await, &wanted, "a step after wrong ones");
}

/// Each row of a batch equals a session of its own.
pub async fn rows_of_a_batch_equal_lone_sessions(subject: &Subject) {
    let hidden = subject.states(3, 12, 15);
    let together = steps(&mut *subject.session(subject.engine.hosted(), 3).await, &hidden, &[7, 1, 4]).await;
    for nth in 0..3 {
        let of = |hidden: &Hidden| hidden.rows(nth, nth + 1).expect("one row");
        let alone = steps(&mut *subject.lone().await, &of(&hidden), &[7, 1, 4]).await;
        subject.near(&of(&together), &alone, "a row of a batch");
    }
}

/// Sessions that take turns, and sessions that run at once, give what they would give alone.
pub async fn sessions_do_not_see_each_other(subject: &Subject) {
    let (a, b) = (subject.states(1, 10, 16), subject.states(1, 10, 17));
    let alone_a = step(&mut *subject.lone().await, &a).await;
    let alone_b = step(&mut *subject.lone().await, &b).await;
    let (mut first, mut second) = (subject.lone().await, subject.lone().await);
    let (mut out_a, mut out_b) = (Vec::new(), Vec::new());
    for at in (0..10).step_by(2) {
        let some = |hidden: &Hidden| hidden.positions(at, at + 2).expect("positions");
        let (some_a, some_b) = (some(&a), some(&b));
        let (from_a, from_b) = join(step(&mut *first, &some_a), step(&mut *second, &some_b)).await;
        out_a.push(from_a);
        out_b.push(from_b);
    }
    subject.near(&Hidden::concat(&out_a).expect("pieces"), &alone_a, "the first of two sessions");
    subject.near(&Hidden::concat(&out_b).expect("pieces"), &alone_b, "the second of two sessions");
}

/// Sessions of different rows and positions that step at the same time, one position each, with rewinding in between, give
/// what they would give alone.
pub async fn sessions_at_once_equal_lone_ones(subject: &Subject) {
    let mut all = Vec::new();
    for (batch, begin) in [(1, 1), (2, 9), (1, 17), (1, 4)] {
        let fed = subject.states(batch, begin + 8, begin as u64);
        let alone = step(&mut *subject.session(subject.engine.hosted(), batch).await, &fed).await;
        let mut session = subject.session(subject.engine.hosted(), batch).await;
        step(&mut *session, &fed.positions(0, begin).expect("positions")).await;
        all.push((session, begin, fed, alone));
    }
    let one = |hidden: &Hidden, at: usize| hidden.positions(at, at + 1).expect("one position");
    for nth in 0..8 {
        // Some of them go a wrong way first.
        if nth % 3 == 1 {
            join_all(all.iter_mut().filter(|(_, begin, ..)| begin % 2 == 1).map(async |(session, begin, fed, _)| {
                step(&mut **session, &one(fed, 0)).await;
                session.rewind(*begin + nth).await.expect("rewinding");
            }))
            .await;
        }
        join_all(all.iter_mut().map(async |(session, begin, fed, alone)| {
            let at = *begin + nth;
            let found = step(&mut **session, &one(fed, at)).await;
            subject.near(&found, &one(alone, at), &format!("position {at} of a session among others"));
        }))
        .await;
    }
}

/// A step whose future was dropped, polled or not, leaves the session as if it had not been called.
pub async fn a_dropped_step_was_never_called(subject: &Subject) {
    let hidden = subject.states(1, 20, 18);
    let whole = step(&mut *subject.lone().await, &hidden).await;
    let mut session = subject.lone().await;
    let mut pieces = Vec::new();
    for at in (0..20).step_by(4) {
        for nth in 0..10u64 {
            let input = StepInput::from(subject.states(1, 1 + nth as usize % 5, 19));
            let a_moment = Duration::from_micros(30 * nth);
            if nth == 0 {
                drop(session.step(input));
            } else if tokio::time::timeout(a_moment, session.step(input)).await.is_ok() {
                session.rewind(at).await.expect("rewinding a step that was faster");
            }
            assert_eq!(session.position(), at);
        }
        pieces.push(step(&mut *session, &hidden.positions(at, at + 4).expect("positions")).await);
    }
    subject.near(&Hidden::concat(&pieces).expect("pieces"), &whole, "steps between dropped ones");
}

/// Rows that were put in another order go on as those they were; a backend that cannot do it says so.
pub async fn reordered_rows_go_on_as_those_they_were(subject: &Subject) {
    let all = subject.engine.hosted();
    let (begin, rest) = (subject.states(3, 5, 21), subject.states(1, 2, 22));
    let mut session = subject.session(all, 3).await;
    step(&mut *session, &begin).await;
    match session.reorder(&[2, 0, 2]).await {
        Err(error) if error.kind() == FaultKind::Unsupported => return,
        outcome => outcome.expect("reordering"),
    }
    let rest = Hidden::stack(&[rest.clone(), rest.clone(), rest]).expect("rows of one length");
    let found = step(&mut *session, &rest).await;
    for (row, was) in [2, 0, 2].into_iter().enumerate() {
        let mut alone = subject.lone().await;
        step(&mut *alone, &begin.rows(was, was + 1).expect("a row")).await;
        let wanted = step(&mut *alone, &rest.rows(row, row + 1).expect("a row")).await;
        subject.near(&found.rows(row, row + 1).expect("a row"), &wanted, "a row that was put elsewhere");
    }
    for wrong in [&[0, 1][..], &[0, 1, 3]] {
        let error = session.reorder(wrong).await.expect_err("an order of other rows");
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
}

/// A session that was forked, its fork and a fork of that go on as lone sessions would, whatever becomes of the others, and all
/// is given back; a backend that cannot do it says so.
pub async fn forks_go_on_as_lone_sessions(subject: &Subject) {
    let (all, before) = (subject.engine.hosted(), subject.engine.free_tokens());
    let need = SessionNeed { max_length: LONGEST, batch: 2 };
    let (begin, rest) = (subject.states(2, 20, 23), subject.states(2, 6, 24));
    let mut session = subject.session(all, 2).await;
    step(&mut *session, &begin).await;
    let mut fork = match session.fork(13, need).await {
        Err(error) if error.kind() == FaultKind::Unsupported => return,
        outcome => outcome.expect("a fork"),
    };
    assert_eq!((fork.position(), session.position(), fork.blocks()), (13, 20, all));
    let (from_fork, from_session) = join(step(&mut *fork, &rest), step(&mut *session, &rest)).await;
    session.rewind(4).await.expect("rewinding what was forked");
    step(&mut *session, &rest).await;
    let mut second = fork.fork(15, need).await.expect("a fork of a fork");
    drop(session);
    drop(fork);
    let from_second = step(&mut *second, &rest).await;
    drop(second);
    assert_eq!(subject.engine.free_tokens(), before, "all is given back");

    let positions = |hidden: &Hidden, end: usize| hidden.positions(0, end).expect("positions");
    let after_13 = [positions(&begin, 13), rest.clone()];
    for (found, pieces, what) in [
        (from_fork, after_13.to_vec(), "a fork"),
        (from_session, vec![begin.clone(), rest.clone()], "a session that was forked"),
        (from_second, vec![after_13[0].clone(), positions(&rest, 2), rest.clone()], "a fork of a fork"),
    ] {
        let mut alone = subject.session(all, 2).await;
        let mut last = None;
        for piece in pieces {
            last = Some(step(&mut *alone, &piece).await);
        }
        subject.near(&found, &last.expect("a step"), what);
    }
}

/// Forks at positions that are not there, with other rows or with too little room are `InvalidInput`; where the cache has no
/// room it is `Capacity`. The session goes on.
pub async fn impossible_forks_are_refused_and_set_nothing_aside(subject: &Subject) {
    let mut session = subject.lone().await;
    let hidden = subject.states(1, 8, 25);
    let first = step(&mut *session, &hidden.positions(0, 6).expect("positions")).await;
    let free = subject.engine.free_tokens();
    let need = |max_length, batch| SessionNeed { max_length, batch };
    for (to, need, kind) in [
        (7, need(LONGEST, 1), FaultKind::InvalidInput),
        (4, need(3, 1), FaultKind::InvalidInput),
        (0, need(0, 1), FaultKind::InvalidInput),
        (4, need(LONGEST, 2), FaultKind::InvalidInput),
        (4, need(free + LONGEST, 1), FaultKind::Capacity),
        (4, need(usize::MAX, 1), FaultKind::Capacity),
    ] {
        let error = session.fork(to, need).await.err().expect("the fork is refused");
        if error.kind() == FaultKind::Unsupported {
            return;
        }
        assert_eq!((error.kind(), subject.engine.free_tokens()), (kind, free), "{error}");
    }
    let last = step(&mut *session, &hidden.positions(6, 8).expect("positions")).await;
    let whole = step(&mut *subject.lone().await, &hidden).await;
    subject.near(&Hidden::concat(&[first, last]).expect("pieces"), &whole, "a session whose forks were refused");
}

/// A session takes `max_length * batch` of `free_tokens`, over a part of the blocks that part of it; its drop gives it
/// back at once.
pub async fn opening_sets_cache_aside_and_dropping_gives_it_back(subject: &Subject) {
    let all = subject.engine.hosted();
    let before = subject.engine.free_tokens();
    let mut session = subject.session(all, 2).await;
    assert_eq!(subject.engine.free_tokens(), before - 2 * LONGEST);
    let part = subject.session(BlockRange::new(all.start(), all.start() + 1).expect("one block"), 1).await;
    let over_part = before - 2 * LONGEST - subject.engine.free_tokens();
    assert!(over_part > 0 && over_part < LONGEST, "one block of {} took {over_part} of {LONGEST}", all.len());
    step(&mut *session, &subject.states(2, 3, 20)).await;
    drop((session, part));
    assert_eq!(subject.engine.free_tokens(), before);
}

/// Where the cache has no room, opening is `Capacity` and sets nothing aside; a smaller need may still fit.
pub async fn a_full_cache_is_capacity_and_sets_nothing_aside(subject: &Subject) {
    let all = subject.engine.hosted();
    let free = subject.engine.free_tokens();
    for (max_length, batch) in [(free + 1, 1), (free, 2), (usize::MAX, 1), (usize::MAX, usize::MAX)] {
        let refused = subject.engine.open(all, SessionNeed { max_length, batch }).await;
        let error = refused.err().expect("the need is refused");
        assert_eq!(error.kind(), FaultKind::Capacity, "{error}");
        assert_eq!(subject.engine.free_tokens(), free);
    }
    let session = subject.engine.open(all, SessionNeed { max_length: free, batch: 1 }).await.expect("all that is free");
    assert_eq!(subject.engine.free_tokens(), 0);
    drop(session);
    subject.lone().await;
}

/// Blocks that are not hosted and needs of nothing are `InvalidInput`.
pub async fn impossible_needs_are_refused(subject: &Subject) {
    let all = subject.engine.hosted();
    let beyond = BlockRange::new(all.start(), all.end() + 1).expect("a run of blocks");
    for (range, max_length, batch) in [(beyond, 8, 1), (all, 0, 1), (all, 8, 0)] {
        let refused = subject.engine.open(range, SessionNeed { max_length, batch }).await;
        let error = refused.err().expect("the need is refused");
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
    }
}
