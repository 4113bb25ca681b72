//! The one thread that computes with a model, and the bounded queue in front of it.

use std::thread;

use corolla_checkpoint::guarded;
use corolla_domain::{
    model::{Hidden, Logits},
    ports::{FaultKind, PortError},
};
use tokio::sync::{mpsc, oneshot};

use crate::{arithmetic::Arithmetic, model::Loaded, pass::Step, schedule::Schedule, scoring::Score};

/// Jobs that may wait; those who bring more wait in front of the queue.
const QUEUE: usize = 64;

/// What the worker is asked for.
pub(crate) enum Job<B: Arithmetic> {
    /// Something short.
    Call(Call<B>),
    /// Something that takes about as long as a chunk of a long step, and takes turns with such.
    Long(Call<B>),
    /// Positions of a session through its blocks.
    Step(Step<B>),
    /// Scores over the vocabulary.
    Score(Score),
}

/// Something that is to be done with the model.
pub(crate) type Call<B> = Box<dyn FnOnce(&Loaded<B>) + Send>;

/// Where the result of a job goes.
pub(crate) struct Reply<T>(oneshot::Sender<Result<T, PortError>>);

impl<T> Reply<T> {
    /// Whether anybody still waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }

    pub(crate) fn send(self, result: Result<T, PortError>) {
        // An error here only says that nobody waits any more.
        let _ = self.0.send(result);
    }
}

/// Hands jobs to the thread that owns a model. Clones share the thread; it ends with the last of them.
pub(crate) struct Worker<B: Arithmetic> {
    jobs: mpsc::Sender<Job<B>>,
}

impl<B: Arithmetic> Clone for Worker<B> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

impl<B: Arithmetic> Worker<B> {
    /// Starts a thread, makes the model on it, and returns what `make` says of it.
    pub(crate) async fn start<A: Send + 'static>(
        make: impl FnOnce() -> Result<(Loaded<B>, A), PortError> + Send + 'static,
    ) -> Result<(Self, A), PortError> {
        let (ready, made) = oneshot::channel();
        let (jobs, mut queue) = mpsc::channel::<Job<B>>(QUEUE);
        let main = move || match guarded("loading the model", make) {
            Ok((model, about)) => {
                if ready.send(Ok(about)).is_ok() {
                    while let Some(job) = queue.blocking_recv() {
                        model.within(|| Schedule::new(&model, &mut queue).run(job));
                    }
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        thread::Builder::new()
            .name("compute-worker".to_owned())
            .spawn(main)
            .map_err(|e| PortError::internal("the worker thread could not be started").with_source(e))?;
        let about = made.await.map_err(|_| gone())??;
        Ok((Self { jobs }, about))
    }

    /// Runs `work`, which is short, when its turn comes: not at all where the future is dropped before.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Loaded<B>) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        self.ask(|reply| Job::Call(answering(what, work, reply))).await
    }

    /// The same for `work` that takes about as long as a chunk of a long step.
    pub(crate) async fn long<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Loaded<B>) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        self.ask(|reply| Job::Long(answering(what, work, reply))).await
    }

    /// Hidden states after a step. Dropping the future stops it, at the latest when the block it is in is done.
    pub(crate) async fn step(&self, step: impl FnOnce(Reply<Hidden>) -> Step<B>) -> Result<Hidden, PortError> {
        self.ask(|reply| Job::Step(step(reply))).await
    }

    /// Scores over the vocabulary. Dropping the future stops it before the next few rows.
    pub(crate) async fn score(&self, score: impl FnOnce(Reply<Logits>) -> Score) -> Result<Logits, PortError> {
        self.ask(|reply| Job::Score(score(reply))).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job<B>) -> Result<T, PortError> {
        let (reply, answer) = oneshot::channel();
        // A place first: whoever goes while there is none leaves nothing behind.
        let place = self.jobs.reserve().await.map_err(|_| gone())?;
        place.send(job(Reply(reply)));
        answer.await.map_err(|_| gone())?
    }
}

/// `work`, whose result is the answer; not done where nobody waits for that any more.
fn answering<B: Arithmetic, T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce(&Loaded<B>) -> Result<T, PortError> + Send + 'static,
    reply: Reply<T>,
) -> Call<B> {
    Box::new(move |model| {
        if reply.is_wanted() {
            reply.send(guarded(what, || work(model)));
        }
    })
}

fn gone() -> PortError {
    PortError::new(FaultKind::Unavailable, "the compute worker has ended")
}
