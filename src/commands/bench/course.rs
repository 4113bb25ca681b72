//! What is run to find out how fast a model is: replies to made-up prompts, through the same ports as real ones.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use corolla_domain::{
    model::{Hidden, LogitRow, RouteReport, TokenId, Want},
    ports::{BlockSession, PortError, SessionNeed},
    routing::{Bans, Chain},
    session::ModelEntry,
};
use tokio::task::JoinSet;

/// Rows that the head scores at least, and how long it is asked for more.
const HEAD_ROWS: usize = 4;
const HEAD_TIME: Duration = Duration::from_millis(500);

/// How long the replies are, and how many at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// Tokens of a prompt.
    pub(super) prompt: usize,
    /// Tokens of a reply.
    pub(super) tokens: usize,
    /// Replies at a time.
    pub(super) sessions: usize,
    /// Positions of a prompt that are run at a time.
    pub(super) chunk: usize,
}

/// What one round found. Rates are per second.
#[derive(Debug, Clone, Default)]
pub(super) struct Round {
    /// Positions of a prompt, up to the first token.
    pub(super) prefill: f64,
    /// Tokens after the first.
    pub(super) decode: f64,
    /// Hidden states scored, one at a time.
    pub(super) head: f64,
    /// Tokens of all replies that are written at the same time; `None` for one reply at a time.
    pub(super) batch: Option<f64>,
    /// Whether each reply was the same beside others as alone.
    pub(super) same: bool,
    /// Servers of a swarm in the order of the blocks, and the time of a step at each.
    pub(super) hops: Vec<(String, Duration)>,
}

/// A reply that is being written.
struct Reply {
    entry: ModelEntry,
    chain: Chain,
    said: Vec<TokenId>,
    /// Time from the input to the output of each hop, summed over steps.
    hops: Vec<(String, Duration)>,
}

/// Runs all of it once.
pub(super) async fn round(entry: &ModelEntry, bans: &Arc<Bans>, course: Course) -> Result<Round, PortError> {
    let (alone, mut found) = alone(entry, bans, course).await?;
    found.head = head(entry).await?;
    if course.sessions > 1 {
        let (tokens, took) = together(entry, bans, course, &alone, &mut found.same).await?;
        found.batch = Some(rate(tokens, took));
    }
    Ok(found)
}

/// One reply, by itself.
async fn alone(entry: &ModelEntry, bans: &Arc<Bans>, course: Course) -> Result<(Vec<TokenId>, Round), PortError> {
    let begun = Instant::now();
    let mut reply = Reply::begin(entry, bans, course, 0).await?;
    let prefill = rate(course.prompt, begun.elapsed());
    let begun = Instant::now();
    reply.go_on(course.tokens - 1).await?;
    let decode = rate(course.tokens - 1, begun.elapsed());
    let mean = |(hop, sum)| (hop, sum / u32::try_from(course.tokens - 1).unwrap_or(u32::MAX));
    let hops = reply.hops.into_iter().map(mean).collect();
    Ok((reply.said, Round { prefill, decode, same: true, hops, ..Round::default() }))
}

/// Replies at the same time: how many tokens after the first ones, and in which time. The first has the prompt of `alone`.
async fn together(
    entry: &ModelEntry,
    bans: &Arc<Bans>,
    course: Course,
    alone: &[TokenId],
    same: &mut bool,
) -> Result<(usize, Duration), PortError> {
    let mut replies = Vec::new();
    for nth in 0..course.sessions {
        replies.push(Reply::begin(entry, bans, course, nth).await?);
    }
    let begun = Instant::now();
    let mut writing = JoinSet::new();
    for (nth, mut reply) in replies.into_iter().enumerate() {
        writing.spawn(async move { reply.go_on(course.tokens - 1).await.map(|()| (nth, reply)) });
    }
    let mut tokens = 0;
    let mut written = Vec::new();
    while let Some(done) = writing.join_next().await {
        let done = done.map_err(|fault| PortError::internal("a reply ended early").with_source(fault))?;
        written.push(done?);
        tokens += course.tokens - 1;
    }
    let took = begun.elapsed();
    *same &= written.iter().all(|(nth, reply)| *nth > 0 || reply.said == alone);
    Ok((tokens, took))
}

/// Hidden states that the head scores a second, one after the other.
async fn head(entry: &ModelEntry) -> Result<f64, PortError> {
    let (begun, mut rows) = (Instant::now(), 0);
    while rows < HEAD_ROWS || begun.elapsed() < HEAD_TIME {
        let hidden = entry.local.embed(vec![vec![token(entry, rows)]]).await?;
        best(entry, hidden).await?;
        rows += 1;
    }
    Ok(rate(rows, begun.elapsed()))
}

impl Reply {
    /// Reads the `nth` prompt and chooses the first token.
    async fn begin(entry: &ModelEntry, bans: &Arc<Bans>, course: Course, nth: usize) -> Result<Self, PortError> {
        let spec = entry.local.spec();
        let need = SessionNeed { max_length: course.prompt + course.tokens, batch: 1 };
        let chain = Chain::new(entry.swarm.clone(), bans.clone(), spec.id.clone(), spec.all_blocks(), need);
        let mut reply = Self { entry: entry.clone(), chain, said: Vec::new(), hops: Vec::new() };
        let prompt: Vec<TokenId> = (0..course.prompt).map(|at| token(entry, 17 * at + 101 * nth)).collect();
        for piece in prompt.chunks(course.chunk) {
            let hidden = reply.step(piece.to_vec()).await?;
            if reply.chain.position() == course.prompt {
                reply.said.push(best(entry, hidden).await?);
            }
        }
        reply.hops.clear();
        Ok(reply)
    }

    /// Writes `count` more tokens.
    async fn go_on(&mut self, count: usize) -> Result<(), PortError> {
        for _ in 0..count {
            let latest = self.said.last().copied().into_iter().collect();
            let hidden = self.step(latest).await?;
            self.said.push(best(&self.entry, hidden).await?);
        }
        Ok(())
    }

    /// The last hidden state of what follows.
    async fn step(&mut self, tokens: Vec<TokenId>) -> Result<Hidden, PortError> {
        let hidden = self.entry.local.embed(vec![tokens]).await?;
        let hidden = self.chain.step(hidden.into()).await?;
        self.note(self.chain.report());
        hidden.last()
    }

    /// Adds what each hop took. A route that has changed is reckoned anew.
    fn note(&mut self, route: RouteReport) {
        let hops: Vec<(String, Duration)> = route.hops.into_iter().map(|it| (it.hop.to_string(), it.latest)).collect();
        let same = self.hops.iter().map(|(hop, _)| hop).eq(hops.iter().map(|(hop, _)| hop));
        if same {
            self.hops.iter_mut().zip(hops).for_each(|((_, sum), (_, latest))| *sum += latest);
        } else {
            self.hops = hops;
        }
    }
}

/// Some token, another one for each number.
fn token(entry: &ModelEntry, number: usize) -> TokenId {
    TokenId(u32::try_from((3 + number) % entry.local.spec().vocab).unwrap_or_default())
}

/// The most probable token after `hidden`.
async fn best(entry: &ModelEntry, hidden: Hidden) -> Result<TokenId, PortError> {
    let rows = entry.local.logits(hidden, Want::Top { k: 1, also: Vec::new() }).await?.rows;
    let best = rows.into_iter().flat_map(LogitRow::into_pairs).max_by(|a, b| a.1.total_cmp(&b.1));
    best.map(|(token, _)| token).ok_or_else(|| PortError::internal("the LM head returned no logits"))
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}
