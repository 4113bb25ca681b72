//! What is run to find out how fast a model is: replies to made-up prompts, written as real ones are.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use corolla_domain::{
    generation::{Conversation, Sampling, StopRule, Turn, TurnModel},
    model::{RouteReport, TokenId, Want},
    ports::{PortError, SessionNeed},
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
    turn: Turn<Box<Conversation>>,
    /// Tokens of the prompt.
    prompt: usize,
    /// Time from the input to the output of each hop, summed over so many steps.
    hops: Vec<(String, Duration)>,
    steps: u32,
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
    reply.finish().await?;
    let decode = rate(course.tokens - 1, begun.elapsed());
    let said = reply.said().to_vec();
    let hops = reply.hops.into_iter().map(|(hop, sum)| (hop, sum / reply.steps.max(1))).collect();
    Ok((said, Round { prefill, decode, same: true, hops, ..Round::default() }))
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
        writing.spawn(async move { reply.finish().await.map(|()| (nth, reply)) });
    }
    let mut tokens = 0;
    while let Some(done) = writing.join_next().await {
        let done = done.map_err(|fault| PortError::internal("a reply ended early").with_source(fault))?;
        let (nth, reply) = done?;
        tokens += reply.said().len() - 1;
        *same &= nth > 0 || reply.said() == alone;
    }
    Ok((tokens, begun.elapsed()))
}

/// Hidden states that the head scores a second, one after the other.
async fn head(entry: &ModelEntry) -> Result<f64, PortError> {
    let (begun, mut rows) = (Instant::now(), 0);
    while rows < HEAD_ROWS || begun.elapsed() < HEAD_TIME {
        let hidden = entry.local.embed(vec![vec![token(entry, rows)]]).await?;
        entry.local.logits(hidden, Want::Top { k: 1, also: Vec::new() }).await?;
        rows += 1;
    }
    Ok(rate(rows, begun.elapsed()))
}

impl Reply {
    /// Reads the `nth` prompt and writes the first token.
    async fn begin(entry: &ModelEntry, bans: &Arc<Bans>, course: Course, nth: usize) -> Result<Self, PortError> {
        let (spec, max_length) = (entry.local.spec(), course.prompt + course.tokens);
        let need = SessionNeed { max_length, batch: 1 };
        let chain = Chain::new(entry.swarm.clone(), bans.clone(), spec.id.clone(), spec.all_blocks(), need);
        let tokens = (0..course.prompt).map(|at| token(entry, 17 * at + 101 * nth)).collect();
        let conversation = Box::new(Conversation { tokens, unread: 0, max_length, blocks: Box::new(chain) });
        let model = TurnModel { tokenizer: entry.tokenizer.clone(), local: entry.local.clone() };
        let rule = StopRule { ignore_eos: true, ..StopRule::default() };
        let greedy = (Sampling::greedy(), 0);
        let mut turn = Turn::new(model, conversation, greedy, rule, course.tokens, course.chunk)?;
        turn.next().await?;
        Ok(Self { turn, prompt: course.prompt, hops: Vec::new(), steps: 0 })
    }

    /// Writes the other tokens.
    async fn finish(&mut self) -> Result<(), PortError> {
        while self.turn.next().await?.is_some() {
            self.note(self.turn.conversation().blocks.report());
        }
        Ok(())
    }

    fn said(&self) -> &[TokenId] {
        &self.turn.conversation().tokens[self.prompt..]
    }

    /// Adds what each hop took. A route that has changed is reckoned anew.
    fn note(&mut self, route: RouteReport) {
        let hops: Vec<(String, Duration)> = route.hops.into_iter().map(|it| (it.hop.to_string(), it.latest)).collect();
        if self.hops.iter().map(|(hop, _)| hop).eq(hops.iter().map(|(hop, _)| hop)) {
            self.hops.iter_mut().zip(hops).for_each(|((_, sum), (_, latest))| *sum += latest);
            self.steps += 1;
        } else {
            (self.hops, self.steps) = (hops, 1);
        }
    }
}

/// Some token, another one for each number.
fn token(entry: &ModelEntry, number: usize) -> TokenId {
    TokenId(u32::try_from((3 + number) % entry.local.spec().vocab).unwrap_or_default())
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}
