//! The one thread that computes with a model, and the bounded queue in front of it.

use std::thread;

use corolla_checkpoint::guarded;
use corolla_domain::ports::{FaultKind, PortError};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; those who bring more wait in front of the queue.
const QUEUE: usize = 64;

type Job<M> = Box<dyn FnOnce(&M) + Send>;

/// Hands jobs to the thread that owns an `M`. Clones share the thread; it ends with the last of them.
pub(crate) struct Worker<M> {
    jobs: mpsc::Sender<Job<M>>,
}

impl<M> Clone for Worker<M> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

/// Whether anybody still waits for the result of a job.
pub(crate) struct Waiting<'a>(&'a (dyn Fn() -> bool + Sync));

impl Waiting<'_> {
    /// An error, to be seen by nobody, where the caller has gone.
    pub(crate) fn check(&self) -> Result<(), PortError> {
        if (self.0)() { Ok(()) } else { Err(PortError::internal("the caller has gone")) }
    }
}

impl<M: 'static> Worker<M> {
    /// Starts a thread, makes the `M` on it, and returns what `make` says of it.
    pub(crate) async fn start<A: Send + 'static>(
        make: impl FnOnce() -> Result<(M, A), PortError> + Send + 'static,
    ) -> Result<(Self, A), PortError> {
        let (ready, made) = oneshot::channel();
        let (jobs, mut queue) = mpsc::channel::<Job<M>>(QUEUE);
        let main = move || match guarded("loading the model", make) {
            Ok((model, about)) => {
                if ready.send(Ok(about)).is_ok() {
                    while let Some(job) = queue.blocking_recv() {
                        job(&model);
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

    /// Runs `work` when its turn comes. Dropping the future stops it: before it starts, or where it asks [`Waiting`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&M, Waiting<'_>) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let (reply, answer) = oneshot::channel();
        let job: Job<M> = Box::new(move |model| {
            if reply.is_closed() {
                return;
            }
            let result = guarded(what, || work(model, Waiting(&|| !reply.is_closed())));
            // An error here only says that nobody waits any more.
            let _ = reply.send(result);
        });
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> PortError {
    PortError::new(FaultKind::Unavailable, "the compute worker has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_job_only() {
        let (worker, ()) = Worker::start(|| Ok((7u32, ()))).await.unwrap();
        let failed = worker.run("the test", |_, _| -> Result<u32, PortError> { panic!("a made-up panic") }).await;
        let error = failed.unwrap_err();
        assert_eq!(error.kind(), FaultKind::Internal);
        assert!(error.context().contains("a made-up panic"), "{error}");
        assert_eq!(worker.run("the test", |seven, _| Ok(*seven)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_while_loading_is_an_error() {
        let made = Worker::<u32>::start(|| -> Result<(u32, ()), PortError> { panic!("no luck") }).await;
        assert!(made.is_err_and(|e| e.context().contains("no luck")));
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_not_run() {
        let (worker, ()) = Worker::start(|| Ok(((), ()))).await.unwrap();
        let (started, wait) = oneshot::channel();
        let (release, blocked) = std::sync::mpsc::sync_channel::<()>(1);
        let first = tokio::spawn({
            let worker = worker.clone();
            async move {
                let work = move |(): &(), _: Waiting<'_>| {
                    let _ = started.send(());
                    blocked.recv().map_err(|_| gone())
                };
                worker.run("the first job", work).await
            }
        });
        wait.await.unwrap();
        let ran = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let second = tokio::spawn({
            let (worker, ran) = (worker.clone(), ran.clone());
            async move {
                let work = move |(): &(), _: Waiting<'_>| {
                    ran.store(true, std::sync::atomic::Ordering::Release);
                    Ok(())
                };
                worker.run("the second job", work).await
            }
        });
        tokio::task::yield_now().await;
        second.abort();
        assert!(second.await.is_err());
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        worker.run("the third job", |(), _| Ok(())).await.unwrap();
        assert!(!ran.load(std::sync::atomic::Ordering::Acquire));
    }
}
