//! Threads that share the blocks of one operation, made for hundreds of operations a token.
//!
//! A barrier at every operation waits for every thread, also for one whose core another process has taken. Here the
//! caller works too, until no block is left, and then waits only for blocks that a worker has begun; a worker that did not
//! wake up in time has taken none. Where such a wait was longer than a block takes, somebody else wants the core: the
//! caller goes on alone for a while, so a busy neighbour does not cost a scheduler's slice at every operation. It may also
//! be the caller whose core somebody else wants, while a worker has the other to itself: then too it goes on alone, so that
//! the worker sleeps and the system moves the caller to where there is room.

use std::{
    hint,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use corolla_domain::ports::PortError;

use super::kernels::Lent;

// The times below are guesses: an operation takes tens to hundreds of microseconds, a scheduler's slice some milliseconds.
// `scripts/bench/kernels.py --contended` measures what they do beside a busy neighbour.

/// How long a worker looks for the next operation before it sleeps: longer than what lies between two operations.
const LOOK: Duration = Duration::from_micros(100);
/// A wait for a begun block that may say that the worker has lost its core; it does if the caller has done blocks in less
/// than half of it.
const LONG: Duration = Duration::from_micros(400);
/// How many times the length of such a wait the caller goes on alone.
const ALONE: u32 = 20;
/// The longest that it does so before it tries again, where it is a while each time.
const MOST_ALONE: Duration = Duration::from_secs(1);
/// Steps of work, each about a multiplication, below which waking another thread costs more than it saves: a guess, some
/// microseconds.
const ALONE_BELOW: usize = 1 << 15;
/// How often the caller asks the system how long it was kept from running.
const ASK: Duration = Duration::from_millis(4);

/// A pool of `threads` threads, the caller's included. Workers end when it is dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    company: Mutex<Company>,
}

struct Shared {
    work: Mutex<Option<Arc<Lent>>>,
    /// Grows with every operation that is offered.
    offers: AtomicU64,
    asleep: AtomicUsize,
    wake: Condvar,
    closed: AtomicBool,
}

impl Pool {
    /// `threads` threads, or as many as affinity and control groups leave this process.
    pub(crate) fn new(threads: Option<usize>) -> Result<Self, PortError> {
        let able = || thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.unwrap_or_else(able).max(1);
        let shared = Arc::new(Shared {
            work: Mutex::new(None),
            offers: AtomicU64::new(0),
            asleep: AtomicUsize::new(0),
            wake: Condvar::new(),
            closed: AtomicBool::new(false),
        });
        let pool = Self { shared, threads, company: Mutex::new(Company::default()) };
        for nth in 1..threads {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new()
                .name(format!("kernels-{nth}"))
                .spawn(move || shared.serve(nth))
                .map_err(|e| PortError::internal("threads to compute on could not be started").with_source(e))?;
        }
        Ok(pool)
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work` with each of `items` and its number, on whichever threads have time: how threads get places of their own
    /// to write to. Panics where a call did.
    pub(crate) fn each<T: Send>(&self, items: impl Iterator<Item = T>, work: impl Fn(usize, T) + Sync) {
        if self.works_alone() {
            return items.enumerate().for_each(|(nth, item)| work(nth, item));
        }
        let items: Vec<_> = items.map(|item| Mutex::new(Some(item))).collect();
        self.share(items.len(), &|nth| {
            let item = items[nth].lock().unwrap_or_else(PoisonError::into_inner).take();
            item.into_iter().for_each(|item| work(nth, item));
        });
    }

    /// The same for items that are `size` steps of work in all, about a multiplication each, which may be too few to share.
    pub(crate) fn each_of<T: Send>(&self, size: usize, items: impl Iterator<Item = T>, work: impl Fn(usize, T) + Sync) {
        if size < ALONE_BELOW {
            items.enumerate().for_each(|(nth, item)| work(nth, item));
        } else {
            self.each(items, work);
        }
    }

    fn works_alone(&self) -> bool {
        self.threads == 1 || self.company().is_alone(Instant::now())
    }

    /// Offers the blocks to the workers, and takes part.
    fn share(&self, blocks: usize, work: &(dyn Fn(usize) + Sync)) {
        if blocks < 2 {
            return (0..blocks).for_each(work);
        }
        Lent::lend(work, (blocks, self.threads), |lent| {
            self.shared.offer(lent);
            let (begun, mut own) = (Instant::now(), 0);
            while lent.take(0) {
                own += 1;
            }
            let ended = Instant::now();
            let long = LONG.max(2 * (ended - begun) / own.max(1));
            let waited = wait(lent, long).filter(|waited| *waited > long);
            self.company().meet(waited, ended);
        });
    }

    fn company(&self) -> MutexGuard<'_, Company> {
        self.company.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for blocks that others have begun, and says how long that took where it was not short. After `long` it gives the
/// core away meanwhile, perhaps to the very worker it waits for.
fn wait(lent: &Lent, long: Duration) -> Option<Duration> {
    let mut spins = 0u32;
    let mut since = None;
    while !lent.is_done() {
        hint::spin_loop();
        spins += 1;
        if spins.is_multiple_of(64) && since.get_or_insert_with(Instant::now).elapsed() > long {
            thread::park_timeout(LONG / 8);
        }
    }
    since.map(|since| since.elapsed())
}

/// What the caller knows of others on its cores, and when it works alone because of them.
#[derive(Default)]
struct Company {
    until: Option<Instant>,
    length: Duration,
    asked: Option<Asked>,
}

/// When the caller asked, and how long it had been kept from running until then; `None` where the system did not say.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    kept: Option<Duration>,
}

impl Company {
    fn is_alone(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// After an operation with others, where the caller may have `waited` for one that has lost its core.
    fn meet(&mut self, waited: Option<Duration>, now: Instant) {
        let kept = if self.is_due(now) { self.hear(kept_from_running(), now) } else { None };
        if let Some(lost) = waited.max(kept) {
            self.go_alone(lost, now);
        }
    }

    /// Whether it is time to ask the system.
    fn is_due(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked.at) > ASK)
    }

    /// How long the caller was kept from running since it last asked, where that is a good part of the time.
    fn hear(&mut self, kept: Option<Duration>, at: Instant) -> Option<Duration> {
        let before = self.asked.replace(Asked { at, kept })?;
        let (kept, passed) = (kept?.saturating_sub(before.kept?), at.saturating_duration_since(before.at));
        // Over a longer time it did other things too.
        (4 * kept > passed && passed < 8 * ASK).then_some(kept)
    }

    /// For a multiple of what was lost, for twice the last time where that is not long ago.
    fn go_alone(&mut self, lost: Duration, now: Instant) {
        let again = self.until.is_some_and(|until| now < until + self.length);
        self.length = if again { 2 * self.length } else { lost.saturating_mul(ALONE) }.min(MOST_ALONE);
        self.until = Some(now + self.length);
    }
}

/// How long the calling thread was ready to run and no core was free, since it began; `None` where the system does not say.
fn kept_from_running() -> Option<Duration> {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    said.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        drop(self.shared.work.lock());
        self.shared.wake.notify_all();
    }
}

impl Shared {
    /// Shows `lent` to the workers. If one of them stands in the way, descheduled perhaps, they miss it.
    fn offer(&self, lent: &Arc<Lent>) {
        if let Ok(mut work) = self.work.try_lock() {
            *work = Some(Arc::clone(lent));
            self.offers.fetch_add(1, Ordering::SeqCst);
        }
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake.notify_all();
        }
    }

    /// A worker's life.
    fn serve(&self, seat: usize) {
        let mut seen = 0;
        while !self.closed.load(Ordering::Relaxed) {
            let offers = self.look(seen);
            if offers == seen {
                self.sleep(seen);
                continue;
            }
            seen = offers;
            let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(work) = work {
                while work.take(seat) {}
            }
        }
    }

    /// Looks for a new offer for a while.
    fn look(&self, seen: u64) -> u64 {
        let since = Instant::now();
        loop {
            for _ in 0..64 {
                let offers = self.offers.load(Ordering::Acquire);
                if offers != seen {
                    return offers;
                }
                hint::spin_loop();
            }
            if since.elapsed() > LOOK {
                return seen;
            }
        }
    }

    /// Sleeps until there is a new offer.
    fn sleep(&self, seen: u64) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while self.offers.load(Ordering::SeqCst) == seen && !self.closed.load(Ordering::SeqCst) {
            work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    #[test]
    fn every_block_is_done_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(Some(threads)).unwrap();
            for blocks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..blocks).map(|_| AtomicUsize::new(0)).collect();
                pool.each(0..blocks, |_, nth| {
                    counts[nth].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} threads, {blocks}");
            }
        }
    }

    #[test]
    fn items_are_written_by_whoever_takes_them() {
        let pool = Pool::new(Some(3)).unwrap();
        for _ in 0..2000 {
            let mut numbers = [0usize; 100];
            pool.each(numbers.chunks_mut(7), |nth, chunk| chunk.fill(nth + 1));
            assert!(numbers.iter().enumerate().all(|(at, number)| *number == at / 7 + 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_after_all_blocks_have_ended() {
        let pool = Pool::new(Some(2)).unwrap();
        let ended = AtomicUsize::new(0);
        let work = |_, nth: usize| {
            ended.fetch_add(1, Ordering::Relaxed);
            assert!(nth != 3, "a made-up panic");
        };
        assert!(panic::catch_unwind(panic::AssertUnwindSafe(|| pool.each(0..10, work))).is_err());
        assert_eq!(ended.load(Ordering::Relaxed), 10);
        pool.each(0..10, |_, _| {});
    }

    #[test]
    fn a_lasting_neighbour_is_asked_ever_more_rarely() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut company = Company::default();
        company.go_alone(ms(3), start);
        assert!(company.is_alone(start + ms(59)) && !company.is_alone(start + ms(60)));
        company.go_alone(ms(3), start + ms(63));
        assert!(company.is_alone(start + ms(182)) && !company.is_alone(start + ms(183)));
        (0..10).for_each(|_| company.go_alone(ms(3), company.until.unwrap()));
        assert_eq!(company.length, MOST_ALONE);
        company.go_alone(ms(1), company.until.unwrap() + ms(5000));
        assert_eq!(company.length, ms(20));
        company.go_alone(ms(300), company.until.unwrap() + ms(5000));
        assert_eq!(company.length, MOST_ALONE);
    }

    #[test]
    fn a_caller_that_is_kept_from_running_notices() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut company = Company::default();
        assert_eq!(company.hear(Some(ms(500)), start), None, "nothing to compare with");
        assert_eq!(company.hear(Some(ms(501)), start + ms(5)), None, "a fifth of the time");
        assert_eq!(company.hear(Some(ms(504)), start + ms(10)), Some(ms(3)));
        assert_eq!(company.hear(Some(ms(904)), start + ms(900)), None, "what was before counts no more");
        assert_eq!(company.hear(Some(ms(907)), start + ms(906)), Some(ms(3)));
    }

    #[test]
    fn a_system_that_does_not_say_is_asked_no_more_often() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut company = Company::default();
        assert_eq!(company.hear(None, start), None);
        assert!(!company.is_due(start + ASK) && company.is_due(start + ASK + ms(1)));
        assert_eq!(company.hear(Some(ms(500)), start + ms(5)), None, "nothing to compare with");
        assert_eq!(company.hear(None, start + ms(10)), None);
    }

    #[test]
    fn a_wait_for_a_worker_that_has_lost_its_core_ends_the_company() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut company = Company { asked: Some(Asked { at: start, kept: Some(ms(0)) }), ..Company::default() };
        company.meet(None, start + ms(1));
        assert!(!company.is_alone(start + ms(1)));
        company.meet(Some(ms(2)), start + ms(2));
        assert!(company.is_alone(start + ms(41)) && !company.is_alone(start + ms(42)));
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(Some(2)).unwrap();
        let here = thread::current().id();
        let helped = AtomicBool::new(false);
        let since = Instant::now();
        // A worker that has slept takes a while; the test needs only one that came.
        while !helped.load(Ordering::Relaxed) && since.elapsed() < Duration::from_secs(20) {
            pool.each(0..8, |_, _| {
                helped.fetch_or(thread::current().id() != here, Ordering::Relaxed);
                let since = Instant::now();
                while since.elapsed() < Duration::from_micros(300) {}
            });
        }
        assert!(helped.load(Ordering::Relaxed));
    }
}
