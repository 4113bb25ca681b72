//! The worker as callers see it, over plain loops: what runs together, in which order, and that nobody can tell from the
//! answers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod backward;
mod batch;
mod chunks;
mod errands;
mod forks;
mod mix;
mod plain;

use std::sync::Arc;

use corolla_compute::{BlockChoice, LoadConfig, Model};
use corolla_domain::{
    model::{BlockRange, Hidden, TokenId},
    ports::{BlockEngine, BlockSession, LocalModel, PortError, SessionNeed},
};
use plain::{Event, Gate, Ledger, Plain};
use tempfile::TempDir;
use testkit::{
    local_model::noise,
    tiny::{Dtype, Size, Tiny},
};
use tokio::task::JoinHandle;

/// Blocks of the models.
const BLOCKS: usize = 3;
/// Positions that all sessions may reserve.
const CACHE: usize = 131_072;
/// Width of the hidden states.
const WIDTH: usize = 36;

/// A model, and what its worker does.
struct House {
    local: Arc<dyn LocalModel>,
    engine: Arc<dyn BlockEngine>,
    ledger: Arc<Ledger>,
}

/// A step of a session that goes on by itself.
type Going = JoinHandle<(Box<dyn BlockSession>, Result<Hidden, PortError>)>;

impl House {
    async fn new(tiny: &Tiny) -> Self {
        let folder = TempDir::new().unwrap();
        tiny.write_folder(folder.path(), Dtype::F32, 1);
        let path = folder.path().to_owned();
        let config = LoadConfig { id: "tiny".into(), path, ends: true, blocks: BlockChoice::All, cache_tokens: CACHE };
        let ledger: Arc<Ledger> = Arc::default();
        let plain = Plain(ledger.clone());
        let model = Model::load(config, move || Ok(plain)).await.unwrap();
        Self { local: model.local().unwrap(), engine: model.engine().unwrap(), ledger }
    }

    /// Heads share keys and values.
    async fn llama() -> Self {
        Self::new(&Tiny::llama(Size { hidden: WIDTH, inner: 40, heads: 6, kv: 2, blocks: BLOCKS })).await
    }

    async fn bloom() -> Self {
        Self::new(&Tiny::bloom(WIDTH, 4, BLOCKS)).await
    }

    async fn session_over(&self, blocks: BlockRange, batch: usize) -> Box<dyn BlockSession> {
        self.engine.open(blocks, SessionNeed { max_length: 512, batch }).await.unwrap()
    }

    /// A session that has seen some positions.
    async fn session(&self, batch: usize, positions: usize, seed: u64) -> Box<dyn BlockSession> {
        let mut session = self.session_over(self.engine.hosted(), batch).await;
        session.step(states(batch, positions, seed).into()).await.unwrap();
        session
    }

    /// What a session answers that was fed all of `fed`, piece by piece, and nobody else there.
    async fn lone(&self, fed: &[Hidden]) -> Vec<Hidden> {
        let mut session = self.session_over(self.engine.hosted(), fed[0].batch()).await;
        let mut answers = Vec::new();
        for hidden in fed {
            answers.push(session.step(hidden.clone().into()).await.unwrap());
        }
        answers
    }

    /// Holds the worker up in front of something that belongs to nobody.
    async fn hold(&self) -> Gate {
        let mut gate = self.ledger.gate();
        let local = self.local.clone();
        tokio::spawn(async move { local.embed(vec![vec![TokenId(1)]]).await });
        assert_eq!(gate.stands().await, Event::Embed);
        gate
    }
}

fn states(batch: usize, seq: usize, seed: u64) -> Hidden {
    Hidden::from_f32((batch, seq, WIDTH), &noise(batch * seq * WIDTH, seed)).unwrap()
}

/// Asks for a step, and comes back when it is in the worker's queue.
async fn go(mut session: Box<dyn BlockSession>, hidden: Hidden) -> Going {
    let going = tokio::spawn(async move {
        let answer = session.step(hidden.into()).await;
        (session, answer)
    });
    // These tests run on one thread: now the step has been polled.
    tokio::task::yield_now().await;
    going
}
