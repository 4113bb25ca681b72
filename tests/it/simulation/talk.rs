//! A conversation at the front door of the domain, compared with what it would have been without any fault.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use corolla_domain::{
    generation::{Sampling, StopRule},
    model::{Message, Role, TokenId},
    ports::{SessionStore, Timestamp},
    session::{Ambient, Catalogue, Length, Limits, ModelEntry, Prompt, ReplyError, ReplyRequest, SessionService},
};
use corolla_sessions::MemorySessions;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{
    PATIENCE, client,
    dice::Dice,
    judge,
    schedule::ALL_WELL,
    toy::{MODEL, Toy, Truth, characters},
    world::World,
};

const LONGEST: usize = 400;
const PREFILL: usize = 64;
/// Steps of a chain that one token may take: the pieces of the longest prompt.
const STEPS: u32 = (LONGEST / PREFILL) as u32 + 1;

/// Everything said in a session, and said again where it was not told.
struct Talk<'a> {
    world: &'a Arc<World>,
    service: &'a SessionService,
    session: Uuid,
    dice: Dice,
    truth: Truth,
    /// When the last token that came was asked for.
    well: Duration,
}

/// One or two conversations until long after all servers are well.
pub(super) async fn talk(world: &Arc<World>, seed: u64) {
    let (clock, counter) = (world.clone(), AtomicU64::new(seed));
    let ambient = Ambient {
        now: Arc::new(move || Timestamp(1_000_000 + clock.now().as_millis() as u64)),
        random: Arc::new(move || counter.fetch_add(1, Relaxed)),
    };
    let day = Duration::from_secs(86_400);
    let limits = Limits { idle: day, prefill_chunk: PREFILL, patience: PATIENCE, ..Limits::default() };
    let toy = Arc::new(Toy::new(world.schedule.blocks));
    let entry = ModelEntry { tokenizer: toy.clone(), local: toy, swarm: client::swarm(world) };
    let store = Arc::new(MemorySessions::new());
    let catalogue = Catalogue::new(vec![entry], MODEL.into()).unwrap();
    let service = SessionService::new(catalogue, store.clone(), limits, ambient);
    let mut talks = Vec::new();
    for nth in 0..Dice::new(seed, 3).one(1..3) as u64 {
        let (session, dice) = (service.open(None, Some(LONGEST)).await.unwrap(), Dice::new(seed, 4 + nth));
        let truth = Truth::new(world.schedule.blocks);
        let talk = Talk { world, service: &service, session, dice, truth, well: Duration::ZERO };
        talks.push(talk.all(&store));
    }
    futures_util::future::join_all(talks).await;
    assert_eq!(world.open(), 0, "sessions are left open");
}

impl Talk<'_> {
    async fn all(mut self, store: &MemorySessions) {
        for _ in 0..self.dice.one(2..7) {
            sleep(self.dice.ms(0..12_000)).await;
            self.reply().await;
        }
        self.world.until(ALL_WELL + Duration::from_secs(30)).await;
        let said = self.truth.tokens.len();
        while self.truth.tokens.len() == said {
            self.reply().await;
        }
        self.service.sweep().await;
        let stored = store.load(self.session).await.unwrap().unwrap().tokens;
        assert_eq!(stored, self.truth.tokens, "the store has other tokens");
        assert!(self.service.close(self.session).await.unwrap());
    }

    /// What is said next: nothing, a text, or a whole chat that parts from what was said before at some point.
    fn prompt(&mut self) -> Prompt {
        let said = self.truth.tokens.len();
        let long = said < 150 && self.dice.percent(8);
        let new = if long { 160 } else { self.dice.one(1..12) };
        let new: Vec<TokenId> = (0..new).map(|_| TokenId(self.dice.one(0..4000) as u32)).collect();
        match self.dice.one(0..10) {
            0..3 if said > 0 => return Prompt::Nothing,
            3..5 => {
                let kept = self.dice.one(0..said + 1);
                let mut content = characters(&self.truth.tokens[..kept]);
                content += &characters(&new);
                self.truth = self.truth.back(kept);
                new.into_iter().for_each(|token| self.truth.push(token));
                return Prompt::Chat(vec![Message::new(Role::User, content)].into());
            }
            _ => {}
        }
        new.iter().for_each(|token| self.truth.push(*token));
        Prompt::Text(characters(&new))
    }

    async fn reply(&mut self) {
        let before = self.truth.clone();
        let prompt = self.prompt();
        let appends = self.truth.tokens.starts_with(&before.tokens);
        let request = ReplyRequest {
            model: None,
            session: Some(self.session),
            owner: None,
            prompt,
            length: Length::NewTokens(self.dice.one(1..10)),
            sampling: Sampling::greedy(),
            stop: StopRule::default(),
            grammar: None,
        };
        let mut reply = self.service.reply(request).await.unwrap();
        // Some replies are abandoned, some are dropped in the middle of a token and asked for again.
        let hasty = self.dice.percent(30);
        let mut patience = self.dice.one(0..3);
        let mut told = false;
        loop {
            let begun = self.world.now();
            let limit = if hasty && self.dice.percent(30) { self.dice.ms(1..3000) } else { Duration::MAX };
            match timeout(limit, reply.next()).await {
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => {
                    for token in chunk.tokens {
                        self.world.note("token", self.session.to_string(), [token.0.into(), 0]);
                        assert_eq!(token, self.truth.next, "token {} is another", self.truth.tokens.len());
                        self.truth.push(token);
                        told = true;
                    }
                    self.well = begun;
                }
                Ok(Err(ReplyError::Port(fault))) => {
                    judge::fault(self.world, &fault, self.well, begun, STEPS);
                    patience = patience.saturating_sub(1);
                }
                Ok(Err(fault)) => panic!("{fault}"),
                Err(_) => {
                    self.world.note("interrupted", self.session.to_string(), [0, 0]);
                    patience = patience.saturating_sub(1);
                }
            }
            if patience == 0 && self.dice.percent(50) {
                break;
            }
        }
        if !told && appends {
            self.truth = before;
        }
    }
}
