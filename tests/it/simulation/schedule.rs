//! What happens to whom and when, drawn from a seed before anything runs.

use std::time::Duration;

use corolla_domain::{
    model::{BlockRange, PeerId},
    routing::InProcessSwarm,
};

use super::dice::Dice;

/// From here on every server is well and on the map.
pub(super) const ALL_WELL: Duration = Duration::from_secs(90);
/// The longest outage of a schedule of that kind; shorter than the patience without a route.
const OUTAGE: usize = 29_000;

/// What is promised of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Some servers for all blocks never fail; the others do as they like.
    Steady,
    /// Once, for less than the patience, blocks may be without a server; nobody stalls.
    Outage,
    /// Nothing.
    Wild,
}

/// How a server answers instead of the truth. Plausible wrong numbers are not among it: nobody can tell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nonsense {
    NotANumber,
    Infinite,
    TooShort,
    TooWide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    /// So many times slower.
    Slow(u32),
    /// Takes what it is sent and answers when it is up again.
    Stalled,
    /// Refuses at once.
    Dead,
    /// Does not even refuse.
    Gone,
    /// Has no room for another session.
    Full,
    Mad(Nonsense),
}

impl State {
    pub(super) fn is_dead(self) -> bool {
        matches!(self, Self::Dead | Self::Gone)
    }
}

/// From `from` on a server is in this state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    pub(super) from: Duration,
    pub(super) state: State,
    /// A session lives as long as this number stays the same.
    pub(super) life: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) peer: PeerId,
    pub(super) blocks: BlockRange,
    /// What it says of its speed, which is not what it does.
    pub(super) rps: f64,
    pub(super) rtt: Duration,
    /// What one block takes for one position.
    pub(super) pace: Duration,
    pub(super) pushes: bool,
    /// Whether its sessions can forget positions; others must be opened anew.
    pub(super) rewinds: bool,
    /// Sessions it has room for.
    pub(super) room: usize,
    /// Dials it refuses at first: it was announced before it serves.
    pub(super) shy: usize,
    pub(super) phases: Vec<Phase>,
    /// When the map does not show it.
    pub(super) hidden: Option<(Duration, Duration)>,
}

impl Server {
    pub(super) fn phase(&self, at: Duration) -> Phase {
        self.phases[self.phases.partition_point(|p| p.from <= at) - 1]
    }

    /// When work that is begun at `from` is done, or when a session of that life breaks before.
    pub(super) fn finish(&self, life: usize, from: Duration, work: Duration) -> Result<Duration, Duration> {
        let (mut now, mut left) = (from, work);
        for (nth, phase) in self.phases.iter().enumerate() {
            let end = self.phases.get(nth + 1).map_or(Duration::MAX, |next| next.from);
            if end <= now {
                continue;
            }
            if phase.life != life || phase.state.is_dead() {
                return Err(now);
            }
            let slower = match phase.state {
                State::Stalled => None,
                State::Slow(times) => Some(times),
                _ => Some(1),
            };
            if let Some(slower) = slower {
                let room = (end - now) / slower;
                if left <= room {
                    return Ok(now + left * slower);
                }
                left -= room;
            }
            now = end;
        }
        Err(now)
    }

    /// Whether it is the client itself.
    pub(super) fn here(&self) -> bool {
        self.peer == InProcessSwarm::peer()
    }

    fn listed(&self, looked: Duration, remembered: Duration) -> bool {
        let hidden = self.hidden.is_some_and(|(from, to)| from <= looked && looked < to);
        let since = looked.saturating_sub(remembered);
        let lived = |(nth, phase): (usize, &Phase)| {
            let end = self.phases.get(nth + 1).map_or(Duration::MAX, |next| next.from);
            !phase.state.is_dead() && phase.from <= looked && end > since
        };
        !hidden && self.phases.iter().enumerate().any(lived)
    }
}

/// A swarm and its fate.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) kind: Kind,
    pub(super) blocks: usize,
    pub(super) servers: Vec<Server>,
    /// How often the map is drawn anew.
    pub(super) refresh: Duration,
    /// How long it shows a server that is dead.
    pub(super) remembered: Duration,
}

impl Schedule {
    pub(super) fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, 1);
        let kind = match dice.one(0..10) {
            0..5 => Kind::Steady,
            5..7 => Kind::Outage,
            _ => Kind::Wild,
        };
        let blocks = dice.one(3..9);
        let pushers = [0, 50, 100][dice.one(0..3)];
        let mut servers = Vec::new();
        let mut start = 0;
        while start < blocks {
            let end = if servers.len() == 2 { blocks } else { dice.one(start + 1..blocks + 1) };
            let blocks = BlockRange::new(dice.one(0..start + 1), end).unwrap();
            servers.push(server(servers.len(), blocks, pushers, dice));
            start = end;
        }
        let backbone = servers.len();
        let own = &mut Dice::new(seed, 10);
        if own.percent(30) {
            settle(&mut servers[own.one(0..backbone)]);
        }
        for nth in backbone..dice.one(backbone..11).max(2) {
            let start = dice.one(0..blocks);
            let blocks = BlockRange::new(start, dice.one(start + 1..blocks + 1)).unwrap();
            let mut more = server(nth, blocks, pushers, dice);
            more.rps *= 5.0; // the bad ones are asked first
            more.shy = if dice.percent(20) { dice.one(1..4) } else { 0 };
            more.room = if dice.percent(25) { dice.one(1..3) } else { more.room };
            servers.push(more);
        }
        let fated = if kind == Kind::Wild { 0 } else { backbone };
        for server in &mut servers[fated..] {
            fate(server, kind, dice);
            server.hidden = server.hidden.filter(|_| !server.here());
        }
        if kind == Kind::Outage {
            let (from, long) = (dice.ms(0..40_000), dice.ms(100..OUTAGE));
            for server in &mut servers[..backbone] {
                if dice.percent(60) {
                    let begun = from + long.mul_f64(dice.one(0..50) as f64 / 100.0);
                    server.phases = vec![up(), Phase { from: begun, state: State::Dead, life: 1 }];
                    server.phases.push(Phase { from: from + long, state: State::Up, life: 2 });
                }
            }
        }
        Self { kind, blocks, servers, refresh: dice.ms(500..20_000), remembered: dice.ms(30_000..60_000) }
    }

    /// When the map was drawn that is shown at `now`.
    pub(super) fn looked(&self, now: Duration) -> Duration {
        let looks = now.as_nanos() / self.refresh.as_nanos();
        self.refresh * looks as u32
    }

    /// The servers on the map at `now`.
    pub(super) fn listed(&self, now: Duration) -> impl Iterator<Item = &Server> {
        let looked = self.looked(now);
        self.servers.iter().filter(move |s| s.listed(looked, self.remembered))
    }

    /// Whether a server was well, on the map and had room all the time, and lost no session.
    pub(super) fn steady(&self, server: &Server, from: Duration, to: Duration) -> bool {
        let (first, last) = (server.phase(from), server.phase(to));
        let mut looks = std::iter::successors(Some(self.looked(from)), |look| Some(*look + self.refresh));
        first.from == last.from
            && first.state == State::Up
            && (server.shy, server.room) == (0, ROOMY)
            && looks.by_ref().take_while(|look| *look <= to).all(|look| server.listed(look, self.remembered))
    }

    /// Whether there was a steady server for every block.
    pub(super) fn could(&self, from: Duration, to: Duration) -> bool {
        let steady: Vec<_> = self.servers.iter().filter(|s| self.steady(s, from, to)).collect();
        (0..self.blocks).all(|b| steady.iter().any(|s| s.blocks.start() <= b && b < s.blocks.end()))
    }
}

const ROOMY: usize = 100;

fn up() -> Phase {
    Phase { from: Duration::ZERO, state: State::Up, life: 0 }
}

fn server(nth: usize, blocks: BlockRange, pushers: usize, dice: &mut Dice) -> Server {
    let pace = dice.ms(1..6);
    Server {
        peer: PeerId(format!("s{nth}")),
        blocks,
        rps: dice.one(50..150) as f64 / 100.0 / pace.as_secs_f64(),
        rtt: dice.ms(2..200),
        pace,
        pushes: dice.percent(pushers),
        rewinds: dice.percent(50),
        room: ROOMY,
        shy: 0,
        phases: vec![up()],
        hidden: None,
    }
}

/// Makes a server's blocks those of the client.
fn settle(server: &mut Server) {
    server.peer = InProcessSwarm::peer();
    server.rtt = Duration::ZERO;
    (server.pushes, server.rewinds) = (false, true);
}

/// Draws what happens to a server that is not promised to be well.
fn fate(server: &mut Server, kind: Kind, dice: &mut Dice) {
    let (mut now, mut life) = (Duration::ZERO, 0);
    server.phases.clear();
    if dice.percent(85) {
        server.phases.push(up());
        now += dice.ms(1..20_000);
    }
    for _ in 0..dice.one(0..6) {
        let nonsense = [Nonsense::NotANumber, Nonsense::Infinite, Nonsense::TooShort, Nonsense::TooWide];
        let state = match dice.one(0..if kind == Kind::Outage { 6 } else { 9 }) {
            0..2 => State::Dead,
            2..4 => State::Mad(nonsense[dice.one(0..4)]),
            4 => State::Full,
            5 => State::Up, // only its sessions are lost
            6 => State::Stalled,
            7 => State::Slow([10, 100, 1000][dice.one(0..3)]),
            _ => State::Gone,
        };
        let ends = usize::from(state.is_dead() || state == State::Up);
        life += ends;
        server.phases.push(Phase { from: now, state, life });
        let short = dice.percent(50);
        now += dice.ms(if short { 10..2000 } else { 1000..25_000 });
        life += ends;
        server.phases.push(Phase { from: now, state: State::Up, life });
        now += dice.ms(1..15_000);
    }
    server.phases.retain(|p| p.from < ALL_WELL);
    server.phases.push(Phase { from: ALL_WELL, state: State::Up, life: life + 1 });
    server.phases[0].from = Duration::ZERO;
    if dice.percent(20) {
        let from = dice.ms(0..60_000);
        server.hidden = Some((from, from + dice.ms(1000..30_000)));
    }
}
