//! In which order the worker does what it was asked for.
//!
//! One-token steps over the same blocks run as one batch: the weights are read once for all. A batch waits for nobody,
//! but between two blocks those who have come meanwhile catch up with it. A longer step runs in chunks, a block at a
//! time between two batches, so that nobody waits for a long prompt; a backward pass takes its turns there too, some rows
//! through a block each. Scores for sampling, embeddings and the like are done between two blocks.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::{
    arithmetic::Arithmetic,
    model::Loaded,
    pass::{Pass, Step},
    scoring::{Score, score},
    worker::{Call, Job},
};

/// Rows of one-token steps that run together. With as many, products take longer for their arithmetic than for reading
/// weights: more would let all wait longer, and none less. A guess.
const ROWS: usize = 32;
/// Rows times positions of a longer step, or of a backward pass, that go through a block before it is others' turn: enough
/// for the arithmetic of matrix products to cost more than reading weights, so little is lost by the cut. A guess.
pub(crate) const CHUNK: usize = 128;
/// Jobs that are known here; more wait in the queue.
const KNOWN: usize = 1024;

/// What would let one-token steps wait.
enum Long<B: Arithmetic> {
    Step(Step<B>),
    /// About as much work as a chunk of a step.
    Call(Call<B>),
}

/// What is to be done, from the first job until nothing is left.
pub(crate) struct Schedule<'a, B: Arithmetic> {
    model: &'a Loaded<B>,
    queue: &'a mut mpsc::Receiver<Job<B>>,
    calls: VecDeque<Call<B>>,
    scores: VecDeque<Score>,
    /// Steps of one position, in the order of arrival.
    steps: VecDeque<Step<B>>,
    /// Steps of more positions or rows, and other long work. They take turns, a chunk each.
    long: VecDeque<Long<B>>,
    /// The batch that runs, and on top of it those who catch up with it.
    batch: Vec<Pass<B>>,
    /// The chunk that is under way.
    chunk: Option<Pass<B>>,
}

impl<'a, B: Arithmetic> Schedule<'a, B> {
    pub(crate) fn new(model: &'a Loaded<B>, queue: &'a mut mpsc::Receiver<Job<B>>) -> Self {
        Self {
            model,
            queue,
            calls: VecDeque::new(),
            scores: VecDeque::new(),
            steps: VecDeque::new(),
            long: VecDeque::new(),
            batch: Vec::new(),
            chunk: None,
        }
    }

    /// Does `first`, and all that comes meanwhile.
    pub(crate) fn run(mut self, first: Job<B>) {
        self.put(first);
        while self.known() > 0 || self.chunk.is_some() {
            self.look();
            self.errands();
            self.run_batch();
            self.run_chunk();
        }
    }

    fn known(&self) -> usize {
        self.calls.len() + self.scores.len() + self.steps.len() + self.long.len()
    }

    fn put(&mut self, job: Job<B>) {
        match job {
            Job::Call(call) => self.calls.push_back(call),
            Job::Long(call) => self.long.push_back(Long::Call(call)),
            Job::Score(score) => self.scores.push_back(score),
            Job::Step(step) if step.hidden.seq() == 1 && step.hidden.batch() <= ROWS => self.steps.push_back(step),
            Job::Step(step) => self.long.push_back(Long::Step(step)),
        }
    }

    fn put_back(&mut self, steps: Vec<Step<B>>) {
        steps.into_iter().for_each(|step| self.put(Job::Step(step)));
    }

    /// Sees what has come and who has gone. In this order: a session that asks anew has dropped what it asked before, so
    /// no two of its steps are ever under way.
    fn look(&mut self) {
        while self.known() < KNOWN
            && let Ok(job) = self.queue.try_recv()
        {
            self.put(job);
        }
        self.steps.retain(Step::is_wanted);
        self.long.retain(|long| match long {
            Long::Step(step) => step.is_wanted(),
            // It sees for itself.
            Long::Call(_) => true,
        });
        let b = self.model.arithmetic();
        let passes = self.batch.iter_mut().chain(&mut self.chunk);
        let apart = passes.flat_map(|pass| pass.purge(b)).collect();
        self.put_back(apart);
    }

    /// What is short, and the next few rows of scores.
    fn errands(&mut self) {
        self.calls.drain(..).for_each(|call| call(self.model));
        score(self.model, &mut self.scores);
    }

    /// Runs the step that has waited longest through its blocks, with all that may go along.
    fn run_batch(&mut self) {
        let Some(first) = self.steps.pop_front() else { return };
        let (open, mut rows) = (!first.apart, first.hidden.batch());
        let blocks = first.blocks.clone();
        self.batch.push(Pass::new(vec![first], blocks, 1));
        while self.batch[0].goes_on() {
            self.look();
            self.errands();
            if open {
                self.let_in(&mut rows);
            }
            self.forward();
        }
        if let Some(batch) = self.batch.pop() {
            let apart = batch.answer(self.model.arithmetic());
            self.put_back(apart);
        }
    }

    /// Runs a block of the pass on top.
    fn forward(&mut self) {
        let apart = self.batch.last_mut().map(|pass| pass.forward(self.model));
        self.put_back(apart.unwrap_or_default());
    }

    /// Lets those who wait for the same blocks catch up with the batch, up to [`ROWS`] in all that were ever in it.
    ///
    /// Its members wait for them as long as they need for the blocks that are done, and they need not wait for the blocks
    /// that are left: that is done where it saves more than it costs, all taken together.
    fn let_in(&mut self, rows: &mut usize) {
        let (done, left) = self.batch[0].progress();
        let blocks = self.batch[0].blocks();
        let mut total = *rows;
        let fits = |step: &Step<B>| {
            let fits = !step.apart && step.blocks == blocks && total + step.hidden.batch() <= ROWS;
            total += if fits { step.hidden.batch() } else { 0 };
            fits
        };
        let fits: Vec<bool> = self.steps.iter().map(fits).collect();
        let many = fits.iter().filter(|fits| **fits).count();
        if many == 0 || many * left < self.batch[0].len() * done {
            return;
        }
        *rows = total;
        let (company, others): (Vec<_>, Vec<_>) = self.steps.drain(..).zip(fits).partition(|(_, fits)| *fits);
        self.steps.extend(others.into_iter().map(|(step, _)| step));
        let company = company.into_iter().map(|(step, _)| step).collect();
        self.batch.push(Pass::new(company, blocks, 1));
        while self.batch[1].goes_on() && self.batch[1].progress().0 < done {
            self.forward();
            self.look();
            self.errands();
        }
        if let Some(company) = self.batch.pop() {
            let apart = self.batch[0].join(company, self.model.arithmetic());
            self.put_back(apart);
        }
    }

    /// Runs a chunk of a longer step through a block, or other long work.
    fn run_chunk(&mut self) {
        let mut chunk = match self.chunk.take() {
            Some(chunk) => chunk,
            None => match self.long.pop_front() {
                None => return,
                Some(Long::Call(call)) => return call(self.model),
                Some(Long::Step(step)) => {
                    let (blocks, most) = (step.blocks.clone(), (CHUNK / step.hidden.batch()).max(1));
                    Pass::new(vec![step], blocks, most)
                }
            },
        };
        let apart = chunk.forward(self.model);
        self.put_back(apart);
        if chunk.goes_on() {
            self.chunk = Some(chunk);
        } else {
            let unfinished = chunk.answer(self.model.arithmetic());
            self.put_back(unfinished);
        }
    }
}
