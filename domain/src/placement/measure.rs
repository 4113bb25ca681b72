//! How fast an engine is, on this machine as busy as it is (wire protocol §8.3).

use std::time::Duration;

use crate::{
    model::Hidden,
    ports::{BlockEngine, FaultKind, PortError, SessionNeed},
};

/// Positions of the first long pass; each that was too quick to tell is followed by one of twice as many.
const FIRST_PASS: usize = 32;
/// Steps that are not counted: what happens only once.
const WARMING: usize = 2;

/// How fast blocks are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Steps of one position, one block, a second.
    pub inference: f64,
    /// Positions of a long pass, one block, a second.
    pub forward: f64,
}

/// How it is tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Most steps of one position.
    pub steps: usize,
    /// Most positions of a long pass.
    pub positions: usize,
    /// Time after which either has said enough.
    pub time: Duration,
}

impl Default for Trial {
    /// The reference's numbers, and a bound for slow machines.
    fn default() -> Self {
        Self { steps: 100, positions: 1024, time: Duration::from_secs(2) }
    }
}

/// Runs made-up hidden states of `width` numbers through all blocks of an engine that nobody else uses. `clock` is the time
/// since some beginning.
///
/// # Errors
/// `Capacity` where the engine's cache has no room for a single position, and what the engine says.
pub async fn measure(
    engine: &dyn BlockEngine,
    width: usize,
    trial: Trial,
    clock: &(dyn Fn() -> Duration + Send + Sync),
) -> Result<Pace, PortError> {
    let (range, room) = (engine.hosted(), engine.free_tokens());
    if room == 0 {
        return Err(PortError::new(FaultKind::Capacity, "there is no room to try out how fast the blocks are"));
    }
    let blocks = range.len() as f64;
    let states = |positions: usize| Hidden::from_f32((1, positions, width), &vec![0.01; positions * width]);
    let rate = |count: usize, took: Duration| count as f64 * blocks / took.as_secs_f64().max(1e-9);

    let most = trial.steps.max(1).min(room);
    let warming = WARMING.min(most - 1);
    let mut session = engine.open(range, SessionNeed { max_length: most, batch: 1 }).await?;
    for _ in 0..warming {
        session.step(states(1)?.into()).await?;
    }
    let (begun, mut steps) = (clock(), 0);
    while steps == 0 || (warming + steps < most && clock().saturating_sub(begun) < trial.time) {
        session.step(states(1)?.into()).await?;
        steps += 1;
    }
    let inference = rate(steps, clock().saturating_sub(begun));
    drop(session);

    let most = trial.positions.max(1).min(room);
    let mut positions = FIRST_PASS.min(most);
    loop {
        let mut session = engine.open(range, SessionNeed { max_length: positions, batch: 1 }).await?;
        let input = states(positions)?.into();
        let begun = clock();
        session.step(input).await?;
        let took = clock().saturating_sub(begun);
        if positions == most || took >= trial.time / 2 {
            return Ok(Pace { inference, forward: rate(positions, took) });
        }
        positions = (2 * positions).min(most);
    }
}
