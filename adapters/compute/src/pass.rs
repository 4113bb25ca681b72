//! Rows of one or more sessions on their way through the same blocks.

use std::{
    ops::Range,
    sync::{Arc, Weak},
};

use corolla_checkpoint::guarded;
use corolla_domain::{model::Hidden, ports::PortError};

use crate::{
    arithmetic::{Arithmetic, Place},
    families::Sequence,
    model::Loaded,
    session::KvCache,
    worker::Reply,
};

/// What a session asks for: its next positions through its blocks.
pub(crate) struct Step<B: Arithmetic> {
    /// Lives as long as the session.
    pub cache: Weak<KvCache<B>>,
    /// The blocks, by their numbers among those loaded.
    pub blocks: Range<usize>,
    pub hidden: Hidden,
    /// Positions before them.
    pub position: usize,
    /// What has left the last block, from the first position on.
    pub done: Vec<Hidden>,
    /// Whether a batch with it has failed: it runs alone then, so that who is at fault fails alone.
    pub apart: bool,
    pub reply: Reply<Hidden>,
}

impl<B: Arithmetic> Step<B> {
    pub(crate) fn is_wanted(&self) -> bool {
        self.reply.is_wanted()
    }

    /// Up to `most` of the positions that are not done.
    fn place(&self, most: usize) -> Place {
        let done: usize = self.done.iter().map(Hidden::seq).sum();
        Place { batch: self.hidden.batch(), seq: most.min(self.hidden.seq() - done), position: self.position + done }
    }
}

/// A step that is in a pass.
struct Member<B: Arithmetic> {
    step: Step<B>,
    cache: Arc<KvCache<B>>,
    place: Place,
    frame: Option<B::Frame>,
}

impl<B: Arithmetic> Member<B> {
    fn rows(&self) -> usize {
        self.place.batch * self.place.seq
    }

    /// Its numbers, `[rows, width]`.
    fn numbers(&self) -> Result<Vec<f32>, PortError> {
        let start = self.place.position - self.step.position;
        Ok(self.step.hidden.positions(start, start + self.place.seq)?.to_f32())
    }
}

/// Rows of some steps, all in front of the same block.
pub(crate) struct Pass<B: Arithmetic> {
    members: Vec<Member<B>>,
    /// `None` before the first block, and where nobody is left.
    x: Option<B::Rows>,
    blocks: Range<usize>,
    /// The block that is next.
    next: usize,
}

impl<B: Arithmetic> Pass<B> {
    /// The next positions, up to `most`, of steps that all go through `blocks`. A step whose session has gone stays out.
    pub(crate) fn new(steps: Vec<Step<B>>, blocks: Range<usize>, most: usize) -> Self {
        let member =
            |step: Step<B>| Some(Member { cache: step.cache.upgrade()?, place: step.place(most), frame: None, step });
        Self { members: steps.into_iter().filter_map(member).collect(), x: None, next: blocks.start, blocks }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn blocks(&self) -> Range<usize> {
        self.blocks.clone()
    }

    /// Blocks that are done, and blocks that are not.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.next - self.blocks.start, self.blocks.end - self.next)
    }

    /// Whether there is somebody left, and a block to run.
    pub(crate) fn goes_on(&self) -> bool {
        !self.members.is_empty() && self.next < self.blocks.end
    }

    /// Runs the next block. Where that fails, a lone step is told so, and several are returned to be run apart.
    pub(crate) fn forward(&mut self, model: &Loaded<B>) -> Vec<Step<B>> {
        if !self.goes_on() {
            return Vec::new();
        }
        match guarded("running blocks", || self.block(model)) {
            Ok(()) => Vec::new(),
            Err(error) => self.fail(error),
        }
    }

    fn block(&mut self, model: &Loaded<B>) -> Result<(), PortError> {
        let (b, blocks) = (model.arithmetic(), model.blocks()?);
        let x = match self.x.take() {
            Some(x) => x,
            None => self.enter(model)?,
        };
        let at = self.next - self.blocks.start;
        let mut caches: Vec<_> = self.members.iter().map(|member| member.cache.lock()).collect();
        let sequences = self.members.iter().zip(&mut caches).map(|(member, caches)| {
            let frame = member.frame.as_ref().ok_or_else(|| PortError::internal("a step without a frame"))?;
            Ok(Sequence { frame, cache: &mut caches[at], rows: member.rows() })
        });
        let x = blocks.forward(b, self.next, x, sequences.collect::<Result<_, PortError>>()?)?;
        drop(caches);
        self.x = Some(x);
        self.next += 1;
        Ok(())
    }

    fn enter(&mut self, model: &Loaded<B>) -> Result<B::Rows, PortError> {
        let (b, blocks) = (model.arithmetic(), model.blocks()?);
        let (mut numbers, mut width) = (Vec::new(), 1);
        for member in &mut self.members {
            member.frame = Some(blocks.frame(b, member.place)?);
            numbers.extend(member.numbers()?);
            width = member.step.hidden.width();
        }
        b.rows(numbers, width)
    }

    /// Lets go of those whose callers have gone. Returns as [`Pass::forward`].
    pub(crate) fn purge(&mut self, b: &B) -> Vec<Step<B>> {
        if self.members.iter().all(|member| member.step.is_wanted()) {
            return Vec::new();
        }
        let mut start = 0;
        let mut parts = Vec::new();
        self.members.retain(|member| {
            let (from, wanted) = (start, member.step.is_wanted());
            start += member.rows();
            if wanted {
                parts.push(from..start);
            }
            wanted
        });
        let Some(x) = self.x.take().filter(|_| !parts.is_empty()) else { return Vec::new() };
        let left = || b.join(parts.into_iter().map(|part| b.part(&x, part.start, part.end)).collect::<Result<_, _>>()?);
        match guarded("letting a step go", left) {
            Ok(x) => self.x = Some(x),
            Err(error) => return self.fail(error),
        }
        Vec::new()
    }

    /// Takes the members of `other`, which is in front of the same block. Returns as [`Pass::forward`].
    pub(crate) fn join(&mut self, other: Self, b: &B) -> Vec<Step<B>> {
        self.members.extend(other.members);
        self.x = match (self.x.take(), other.x) {
            (Some(x), Some(y)) => match guarded("joining steps", || b.join(vec![x, y])) {
                Ok(x) => Some(x),
                Err(error) => return self.fail(error),
            },
            (x, y) => x.or(y),
        };
        Vec::new()
    }

    /// Answers the steps that are done, and returns those that have positions left, or are to be run apart.
    pub(crate) fn answer(mut self, b: &B) -> Vec<Step<B>> {
        let Some(x) = self.x.take() else { return Vec::new() };
        let numbers = match guarded("running blocks", || b.numbers(x)) {
            Ok(numbers) => numbers,
            Err(error) => return self.fail(error),
        };
        let mut numbers = &numbers[..];
        let mut unfinished = Vec::new();
        for member in self.members {
            let width = member.step.hidden.width();
            let (own, others) = numbers.split_at(member.rows() * width);
            numbers = others;
            let Member { mut step, cache, place, .. } = member;
            // The session may end with its answer, and is to find its cache given back then.
            drop(cache);
            match Hidden::from_f32((place.batch, place.seq, width), own) {
                Err(error) => step.reply.send(Err(error)),
                Ok(hidden) => {
                    step.done.push(hidden);
                    if step.place(1).seq > 0 {
                        unfinished.push(step);
                    } else if let [hidden] = &step.done[..] {
                        step.reply.send(Ok(hidden.clone()));
                    } else {
                        step.reply.send(Hidden::concat(&step.done));
                    }
                }
            }
        }
        unfinished
    }

    fn fail(&mut self, error: PortError) -> Vec<Step<B>> {
        self.x = None;
        let mut steps: Vec<Step<B>> = self.members.drain(..).map(|member| member.step).collect();
        if steps.len() > 1 {
            tracing::warn!(%error, steps = steps.len(), "a batch failed, its steps are run one by one");
            steps.iter_mut().for_each(|step| step.apart = true);
        } else if let Some(step) = steps.pop() {
            step.reply.send(Err(error));
        }
        steps
    }
}
