//! Neighbours for unit tests, on mocks: a tokenizer with one token a byte, and a model whose next token depends on the
//! whole history, so that a lost, doubled or reordered position changes the text.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    model::{BlockRange, CallForm, Chat, Hidden, LogitRow, Logits, ModelSpec, TokenId},
    ports::{
        BlockSession, FaultKind, MockBlockEngine, MockLocalModel, MockSessionStore, MockTokenizer, PortError,
        SessionNeed, SessionRecord, StepInput, Timestamp,
    },
    session::Ambient,
};

pub(crate) const BOS: TokenId = TokenId(1);
pub(crate) const EOS: TokenId = TokenId(2);
const VOCAB: usize = 256;

pub(crate) fn spec(id: &str) -> ModelSpec {
    ModelSpec {
        id: id.into(),
        family: "sum".into(),
        hidden: 1,
        vocab: VOCAB,
        blocks: 2,
        max_positions: Some(4096),
        eos: vec![EOS],
        bos: Some(BOS),
        dtype: "f32".into(),
    }
}

pub(crate) fn tokens(text: &str) -> Vec<TokenId> {
    text.bytes().map(|b| TokenId(u32::from(b))).collect()
}

/// One token a byte. A chat is `role:content` lines.
pub(crate) fn tokenizer() -> MockTokenizer {
    let mut mock = MockTokenizer::new();
    mock.expect_encode().returning(|text, _| Ok(tokens(text)));
    mock.expect_decode().returning(|tokens, skip_special| {
        let mut bytes = Vec::new();
        for token in tokens {
            match *token {
                BOS | EOS if skip_special => {}
                BOS => bytes.extend(b"<s>"),
                EOS => bytes.extend(b"</s>"),
                TokenId(byte) => bytes.push(byte as u8),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    mock.expect_call_form().return_const(CallForm::Tagged);
    mock.expect_chat_prompt().returning(|chat: &Chat| {
        Ok(chat.messages.iter().map(|m| format!("{:?}:{}\n", m.role, m.content)).collect::<String>() + "Assistant:")
    });
    mock
}

/// Embeds a token as its number and scores `next(state)` highest.
pub(crate) fn local(spec: ModelSpec, next: impl Fn(u32) -> TokenId + Send + Sync + 'static) -> MockLocalModel {
    let mut mock = MockLocalModel::new();
    let spec = Arc::new(spec);
    mock.expect_spec().returning(move || spec.clone());
    mock.expect_embed().returning(|rows| {
        let numbers: Vec<f32> = rows[0].iter().map(|t| t.0 as f32).collect();
        Hidden::from_f32((1, numbers.len(), 1), &numbers)
    });
    mock.expect_logits().returning(move |hidden, _| {
        let rows = hidden.to_f32().into_iter().map(|state| {
            let mut scores = vec![0.0; VOCAB];
            scores[next(state as u32).0 as usize] = 9.0;
            LogitRow::Dense(scores)
        });
        Ok(Logits { rows: rows.collect() })
    });
    mock.expect_normed().returning(Ok);
    mock
}

/// A printable character that depends on the state.
pub(crate) fn letter(state: u32) -> TokenId {
    TokenId(u32::from(b'a') + (state * 7 + 3) % 26)
}

/// What an engine's sessions did and shall do.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Positions stepped by all sessions.
    pub(crate) stepped: AtomicUsize,
    /// Steps that shall hang for ever, counted down from the next one.
    pub(crate) hang: AtomicUsize,
    /// Opened and not dropped.
    pub(crate) open: AtomicUsize,
    /// Sessions give copies of their beginning while fewer than so many are open; 0: they never do.
    pub(crate) forks: AtomicUsize,
}

/// Two blocks; the state after a position is the sum of `(position + 1) * token` over all positions so far, mod 997.
/// Has room for `room` open sessions.
pub(crate) fn engine(ledger: &Arc<Ledger>, room: usize) -> MockBlockEngine {
    let mut mock = MockBlockEngine::new();
    let ledger = ledger.clone();
    mock.expect_hosted().returning(|| BlockRange::first(2));
    mock.expect_free_tokens().returning(|| 1 << 20);
    mock.expect_open().returning(move |blocks, need| {
        if ledger.open.load(SeqCst) >= room {
            return Err(PortError::new(FaultKind::Capacity, "the cache is full"));
        }
        Ok(session(&ledger, blocks, need))
    });
    mock
}

/// A session as that engine opens it.
pub(crate) fn session(ledger: &Arc<Ledger>, blocks: BlockRange, need: SessionNeed) -> Box<dyn BlockSession> {
    ledger.open.fetch_add(1, SeqCst);
    Box::new(Sums { blocks, need, fed: Vec::new(), ledger: ledger.clone() })
}

struct Sums {
    blocks: BlockRange,
    need: SessionNeed,
    fed: Vec<u32>,
    ledger: Arc<Ledger>,
}

impl Drop for Sums {
    fn drop(&mut self) {
        self.ledger.open.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl BlockSession for Sums {
    fn blocks(&self) -> BlockRange {
        self.blocks
    }

    fn position(&self) -> usize {
        self.fed.len()
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        if self.ledger.hang.load(SeqCst) > 0 && self.ledger.hang.fetch_sub(1, SeqCst) == 1 {
            std::future::pending::<()>().await;
        }
        assert!(self.fed.len() + input.hidden.seq() <= self.need.max_length, "the domain checks the length itself");
        let mut outputs = Vec::new();
        for value in input.hidden.to_f32() {
            self.fed.push(value as u32);
            let sum: u32 = (1u32..).zip(&self.fed).map(|(position, token)| position * token).sum();
            outputs.push((sum % 997) as f32);
        }
        self.ledger.stepped.fetch_add(outputs.len(), SeqCst);
        Hidden::from_f32((1, outputs.len(), 1), &outputs)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        self.fed.truncate(to);
        Ok(())
    }

    async fn fork(&mut self, to: usize, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        let (ledger, room) = (self.ledger.clone(), self.ledger.forks.load(SeqCst));
        if room == 0 {
            return Err(PortError::new(FaultKind::Unsupported, "no copies are given"));
        }
        if ledger.open.load(SeqCst) >= room {
            return Err(PortError::new(FaultKind::Capacity, "the cache is full"));
        }
        ledger.open.fetch_add(1, SeqCst);
        Ok(Box::new(Self { blocks: self.blocks, need, fed: self.fed[..to].to_vec(), ledger }))
    }
}

/// A store on a map, as several replicas may share it.
pub(crate) fn store(records: &Arc<Mutex<HashMap<Uuid, SessionRecord>>>) -> MockSessionStore {
    let mut mock = MockSessionStore::new();
    let map = records.clone();
    mock.expect_create().returning(move |record, now, max_live| {
        let mut map = map.lock().unwrap();
        if map.values().filter(|r| r.expires > now).count() >= max_live {
            return Err(PortError::new(FaultKind::Capacity, "full"));
        }
        map.insert(record.id, record);
        Ok(())
    });
    let map = records.clone();
    mock.expect_load().returning(move |id| Ok(map.lock().unwrap().get(&id).cloned()));
    let map = records.clone();
    mock.expect_save().returning(move |mut record| {
        let mut map = map.lock().unwrap();
        let Some(old) = map.get(&record.id) else { return Err(PortError::new(FaultKind::NotFound, "gone")) };
        if old.version != record.version {
            return Err(PortError::new(FaultKind::Conflict, "stale"));
        }
        record.version += 1;
        let version = record.version;
        map.insert(record.id, record);
        Ok(version)
    });
    let map = records.clone();
    mock.expect_delete().returning(move |id| Ok(map.lock().unwrap().remove(&id).is_some()));
    let map = records.clone();
    mock.expect_expired().returning(move |now, limit| {
        Ok(map.lock().unwrap().values().filter(|r| r.expires <= now).map(|r| r.id).take(limit).collect())
    });
    mock
}

/// A clock that stands still until it is moved, and numbers that count up.
pub(crate) fn ambient(clock: &Arc<AtomicU64>) -> Ambient {
    let (clock, counter) = (clock.clone(), AtomicU64::new(1));
    Ambient {
        now: Arc::new(move || Timestamp(clock.load(SeqCst))),
        random: Arc::new(move || counter.fetch_add(1, SeqCst)),
    }
}
