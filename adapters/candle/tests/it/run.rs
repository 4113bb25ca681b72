//! Loading a model and running it, in short.

use std::path::Path;

use corolla_candle::{BlockChoice, CandleConfig, CandleModel, DeviceChoice, DtypeChoice};
use corolla_domain::{
    model::{Hidden, LogitRow, TokenId, Want},
    ports::{BlockSession, PortError, SessionNeed, StepInput},
};

pub(crate) fn config(path: &Path, dtype: DtypeChoice) -> CandleConfig {
    CandleConfig {
        id: "a-model".into(),
        path: path.to_owned(),
        dtype,
        device: DeviceChoice::Cpu,
        blocks: BlockChoice::All,
        cache_tokens: 4096,
        threads: Some(2),
    }
}

pub(crate) async fn load(path: &Path, dtype: DtypeChoice) -> CandleModel {
    CandleModel::load(config(path, dtype)).await.unwrap()
}

/// The error that loading `path` ends with.
pub(crate) async fn refusal(path: &Path) -> PortError {
    CandleModel::load(config(path, DtypeChoice::Auto)).await.err().expect("the model is refused")
}

pub(crate) async fn session(model: &CandleModel, max_length: usize) -> Box<dyn BlockSession> {
    let engine = model.engine().unwrap();
    engine.open(engine.hosted(), SessionNeed { max_length, batch: 1 }).await.unwrap()
}

pub(crate) async fn embed(model: &CandleModel, ids: &[u32]) -> Hidden {
    model.local().embed(vec![ids.iter().copied().map(TokenId).collect()]).await.unwrap()
}

/// All scores after the last of `ids`.
pub(crate) async fn feed(model: &CandleModel, session: &mut dyn BlockSession, ids: &[u32]) -> Vec<f32> {
    let hidden = session.step(StepInput::from(embed(model, ids).await)).await.unwrap();
    match model.local().logits(hidden.last().unwrap(), Want::All).await.unwrap().rows.remove(0) {
        LogitRow::Dense(scores) => scores,
        LogitRow::Sparse(_) => panic!("all scores were asked for"),
    }
}

/// Scores after the prompt, and the tokens that follow it by largest score.
pub(crate) async fn greedy(model: &CandleModel, prompt: &[u32], count: usize) -> (Vec<f32>, Vec<u32>) {
    let mut session = session(model, prompt.len() + count).await;
    let first = feed(model, &mut *session, prompt).await;
    let mut ids = vec![best(&first)];
    while ids.len() < count {
        ids.push(best(&feed(model, &mut *session, &ids[ids.len() - 1..]).await));
    }
    (first, ids)
}

pub(crate) fn best(scores: &[f32]) -> u32 {
    (0u32..).zip(scores).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}
