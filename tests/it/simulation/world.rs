//! The servers of a schedule, their sessions, and what they push to each other.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use corolla_domain::{
    model::{Hidden, Hop},
    ports::{FaultKind, Inbox, PortError, Relay},
};
use tokio::time::{Instant, sleep_until};

use super::{
    dice::Dice,
    schedule::{Nonsense, Schedule, Server, State},
    toy::Cache,
};

/// How long the client waits for a session to open, and for an answer.
pub(super) const OPENING: Duration = Duration::from_secs(10);
pub(super) const ANSWER: Duration = Duration::from_secs(20);

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happening {
    pub(super) at: Duration,
    pub(super) what: &'static str,
    pub(super) to: String,
    pub(super) numbers: [u64; 2],
}

pub(super) struct World {
    pub(super) schedule: Schedule,
    begun: Instant,
    state: Mutex<Now>,
}

struct Now {
    dice: Dice,
    sessions: BTreeMap<u64, Held>,
    opened: u64,
    /// For each server, how many dials it has refused out of shyness.
    refused: Vec<usize>,
    pushes: BTreeMap<(Duration, u64), Push>,
    pushed: u64,
    happened: Vec<Happening>,
}

/// A session as its server holds it.
struct Held {
    server: usize,
    life: usize,
    cache: Cache,
    /// What the cache was fed.
    fed: Vec<f32>,
    /// The answers to steps that have a name: each is computed once.
    taken: BTreeMap<u64, Answer>,
    /// Done with what it was sent before.
    free: Duration,
}

/// Output, and when it leaves; `Err` is when the session breaks before.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    done: Result<Duration, Duration>,
    output: Hidden,
}

struct Push {
    to: u64,
    step: u64,
    input: Hidden,
    next: Vec<Inbox>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let schedule = Schedule::draw(seed);
        let state = Now {
            dice: Dice::new(seed, 2),
            sessions: BTreeMap::new(),
            opened: 0,
            refused: vec![0; schedule.servers.len()],
            pushes: BTreeMap::new(),
            pushed: 0,
            happened: Vec::new(),
        };
        Self { schedule, begun: Instant::now(), state: Mutex::new(state) }
    }

    /// Time since the world began.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) async fn until(&self, time: Duration) {
        sleep_until(self.begun + time).await;
    }

    pub(super) fn note(&self, what: &'static str, to: impl Into<String>, numbers: [u64; 2]) {
        let happening = Happening { at: self.now(), what, to: to.into(), numbers };
        self.state().happened.push(happening);
    }

    pub(super) fn happened(&self) -> Vec<Happening> {
        self.state().happened.clone()
    }

    /// Sessions that no client has closed; those a server lost are not among them.
    pub(super) fn open(&self) -> usize {
        let now = self.now();
        self.state().sessions.values().filter(|held| self.alive(held, now)).count()
    }

    pub(super) fn server(&self, hop: &Hop) -> (usize, &Server) {
        self.schedule.servers.iter().enumerate().find(|(_, s)| s.peer == hop.peer).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, Now> {
        self.state.lock().unwrap()
    }

    fn alive(&self, held: &Held, at: Duration) -> bool {
        let phase = self.schedule.servers[held.server].phase(at);
        phase.life == held.life && !phase.state.is_dead()
    }

    /// Opens a session once the server has agreed.
    pub(super) async fn open_session(&self, hop: &Hop) -> Result<u64, PortError> {
        let (nth, server) = self.server(hop);
        let phase = server.phase(self.now());
        if !server.blocks.contains(hop.blocks) {
            return Err(refusal(FaultKind::Unavailable, hop, "does not host them"));
        }
        if phase.state == State::Gone {
            self.until(self.now() + OPENING).await;
            return Err(refusal(FaultKind::TimedOut, hop, "cannot be reached"));
        }
        let agreed = server.finish(phase.life, self.now() + server.rtt, server.pace);
        self.until(agreed.unwrap_or_else(|broken| broken)).await;
        if agreed.is_err() {
            return Err(refusal(FaultKind::Unavailable, hop, "refuses"));
        }
        let mut state = self.state();
        if state.refused[nth] < server.shy {
            state.refused[nth] += 1;
            return Err(refusal(FaultKind::Unavailable, hop, "does not serve yet"));
        }
        let now = self.now();
        let here = state.sessions.values().filter(|held| held.server == nth && self.alive(held, now)).count();
        if here >= server.room || server.phase(now).state == State::Full {
            return Err(refusal(FaultKind::Capacity, hop, "has no room"));
        }
        state.opened += 1;
        let (id, life, cache) = (state.opened, phase.life, Cache::new(hop.blocks));
        let held = Held { server: nth, life, cache, fed: Vec::new(), taken: BTreeMap::new(), free: now };
        state.sessions.insert(id, held);
        Ok(id)
    }

    /// Lets the server of a session forget what it was fed after `to` positions.
    pub(super) fn forget(&self, id: u64, to: usize) {
        self.deliver(self.now());
        let mut state = self.state();
        let Some(held) = state.sessions.get_mut(&id) else { return };
        held.cache = held.cache.fresh();
        held.fed.truncate(to);
        held.fed.iter().for_each(|value| {
            held.cache.feed(*value);
        });
    }

    pub(super) fn close_session(&self, id: u64) {
        let now = self.now();
        self.deliver(now);
        let held = self.state().sessions.remove(&id);
        let server = held.map_or(String::new(), |held| self.schedule.servers[held.server].peer.0.clone());
        self.note("closed", server, [id, 0]);
    }

    /// Sends a step and waits for the answer.
    pub(super) async fn ask(
        &self,
        id: u64,
        hop: &Hop,
        input: Hidden,
        relay: Option<Relay>,
    ) -> Result<Hidden, PortError> {
        let (_, server) = self.server(hop);
        let now = self.now();
        self.deliver(now);
        let (step, next) = relay.map_or((None, Vec::new()), |relay| (Some(relay.step), relay.next));
        let answer = self.compute(id, now, step, &input, next);
        self.note("asked", hop.to_string(), [id, step.unwrap_or(0)]);
        let due = answer.as_ref().map_or(Err(now + server.rtt), |answer| answer.done);
        let back = due.unwrap_or_else(|broken| broken).max(now + server.rtt / 2) + server.rtt / 2;
        if back > now + ANSWER {
            self.until(now + ANSWER).await;
            self.note("gave up", hop.to_string(), [id, step.unwrap_or(0)]);
            return Err(refusal(FaultKind::TimedOut, hop, "does not answer"));
        }
        self.until(back).await;
        self.deliver(back);
        match answer.filter(|_| due.is_ok()) {
            Some(answer) => {
                self.note("answered", hop.to_string(), [id, step.unwrap_or(0)]);
                Ok(answer.output)
            }
            None => {
                self.note("broke", hop.to_string(), [id, step.unwrap_or(0)]);
                Err(refusal(FaultKind::Unavailable, hop, "closed the session"))
            }
        }
    }

    /// Lets the server of a session take a step at `at`, unless it has already taken the one of that name.
    fn compute(
        &self,
        id: u64,
        at: Duration,
        step: Option<u64>,
        input: &Hidden,
        mut next: Vec<Inbox>,
    ) -> Option<Answer> {
        let state = &mut *self.state();
        let held = state.sessions.get_mut(&id).filter(|held| self.alive(held, at))?;
        if let Some(answer) = step.and_then(|step| held.taken.get(&step)) {
            return Some(answer.clone());
        }
        let server = &self.schedule.servers[held.server];
        let input = input.to_f32();
        let output: Vec<f32> = input.iter().map(|value| held.cache.feed(*value)).collect();
        held.fed.extend(input);
        let work = server.pace * (output.len() * held.cache.blocks()) as u32;
        let done = server.finish(held.life, held.free.max(at + server.rtt / 2), work);
        let output = match server.phase(done.unwrap_or(at)).state {
            State::Mad(nonsense) => {
                let (what, to) = ("nonsense", server.peer.0.clone());
                state.happened.push(Happening { at: self.now(), what, to, numbers: [id, 0] });
                spoilt(output, nonsense)
            }
            _ => numbers((1, output.len(), 1), &output),
        };
        let answer = Answer { done, output };
        held.free = done.unwrap_or(held.free);
        if let (Some(step), Ok(done)) = (step, done) {
            held.taken.insert(step, answer.clone());
            if !next.is_empty() && !state.dice.percent(10) {
                let to = next.remove(0).session.parse().unwrap();
                let late = state.dice.percent(10);
                let on_the_way = state.dice.ms(if late { 1..5000 } else { 1..50 });
                let push = Push { to, step, input: answer.output.clone(), next };
                state.pushed += 1;
                state.pushes.insert((done + on_the_way, state.pushed), push);
            }
        }
        Some(answer)
    }

    /// Lets everything arrive that was pushed until `now`, also where whoever asked for it has gone.
    fn deliver(&self, now: Duration) {
        loop {
            let mut state = self.state();
            let Some(((at, _), push)) = state.pushes.first_key_value().filter(|((at, _), _)| *at <= now) else {
                return;
            };
            let (at, whole) = (*at, (push.input.batch(), push.input.width()) == (1, 1));
            let (_, push) = state.pushes.pop_first().unwrap();
            drop(state);
            if whole {
                self.note("pushed", push.to.to_string(), [push.step, at.as_millis() as u64]);
                self.compute(push.to, at, Some(push.step), &push.input, push.next);
            }
        }
    }
}

fn refusal(kind: FaultKind, hop: &Hop, what: &str) -> PortError {
    PortError::new(kind, format!("{hop} {what}"))
}

fn numbers(shape: (usize, usize, usize), values: &[f32]) -> Hidden {
    Hidden::from_f32(shape, values).unwrap()
}

fn spoilt(mut output: Vec<f32>, nonsense: Nonsense) -> Hidden {
    let positions = output.len();
    match nonsense {
        Nonsense::NotANumber => output[positions / 2] = f32::NAN,
        Nonsense::Infinite => output[positions - 1] = f32::NEG_INFINITY,
        Nonsense::TooShort if positions > 1 => return numbers((1, positions - 1, 1), &output[1..]),
        Nonsense::TooShort | Nonsense::TooWide => return numbers((1, positions, 2), &output.repeat(2)),
    }
    numbers((1, positions, 1), &output)
}
