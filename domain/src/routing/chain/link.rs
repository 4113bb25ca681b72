//! One server of a chain: its session, how fast it is, and what its cache may hold.

use crate::{
    model::{Hidden, PeerId},
    ports::{BlockSession, FaultKind, PortError, SessionNeed, StepInput},
    routing::pace::Pace,
};

/// A session at a server.
pub(super) struct Link {
    pub(super) peer: PeerId,
    pub(super) session: Box<dyn BlockSession>,
    pub(super) pace: Pace,
    /// Whether another server was told to push the current step here. Until this session has answered it, its cache may
    /// hold a position that the chain does not know.
    pub(super) awaiting_push: bool,
    /// Whether its latest step was left before the answer came.
    pub(super) left: bool,
    /// The step it was opened for.
    pub(super) opened: u64,
}

impl Link {
    /// How many positions a step of `seq` positions after `position` costs: one that has to forget something may have to
    /// be fed everything again.
    pub(super) fn costs(&self, position: usize, seq: usize) -> usize {
        if self.left || self.session.position() > position { position + seq } else { seq }
    }

    /// Steps the server, after it has forgotten what the chain has forgotten (a rewind, or a step that was dropped
    /// half-way).
    pub(super) async fn step(&mut self, position: usize, input: StepInput) -> Result<Hidden, PortError> {
        if self.session.position() > position {
            self.session.rewind(position).await?;
        }
        step_checked(&mut *self.session, input).await
    }
}

impl Link {
    /// Another session at this server, that begins as this one does.
    pub(super) async fn fork(&mut self, to: usize, need: SessionNeed) -> Result<Self, PortError> {
        let session = self.session.fork(to, need).await?;
        let (peer, pace) = (self.peer.clone(), Pace::default());
        Ok(Self { peer, session, pace, awaiting_push: false, left: false, opened: 0 })
    }
}

/// Steps a server and believes its answer only if it can be one.
pub(super) async fn step_checked(session: &mut dyn BlockSession, input: StepInput) -> Result<Hidden, PortError> {
    let shape = |h: &Hidden| (h.batch(), h.seq(), h.width());
    let asked = shape(&input.hidden);
    let output = session.step(input).await?;
    check_answer(&output, asked)?;
    Ok(output)
}

/// Believes hidden states only if they have the shape that was asked for and are numbers.
pub(in crate::routing) fn check_answer(output: &Hidden, asked: (usize, usize, usize)) -> Result<(), PortError> {
    let shape = (output.batch(), output.seq(), output.width());
    if shape != asked {
        let text = format!("a server answered with shape {shape:?} to {asked:?}");
        return Err(PortError::new(FaultKind::Unavailable, text));
    }
    if !output.is_finite() {
        let text = "a server answered with numbers that are not finite";
        return Err(PortError::new(FaultKind::Unavailable, text));
    }
    Ok(())
}
