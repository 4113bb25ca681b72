//! What other implementations computed with the same weights: the files of `tests/fixtures/golden`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use corolla_domain::{
    model::{BlockRange, Hidden},
    ports::{BackwardInput, SessionNeed, StepInput},
};
use futures_util::future::join_all;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    fixtures,
    local_model::{assert_near, noise},
    run::{Loaded, embed, greedy},
};

/// How far a logit or a hidden state may be from the reference's, as a part of the largest one.
const TOLERANCE: f32 = 1e-4;

/// What was computed with one model.
#[derive(Deserialize)]
pub struct Golden {
    /// Prompts and what follows them.
    pub cases: Vec<Case>,
    hidden: Option<States>,
}

/// A prompt and what follows it by largest score.
#[derive(Deserialize)]
pub struct Case {
    /// What the case is called.
    pub name: String,
    /// The prompt.
    pub prompt_ids: Vec<u32>,
    /// What follows.
    pub new_ids: Vec<u32>,
    last_logits: Option<Vec<f32>>,
    last_logits_top16: Option<Vec<(usize, f32)>>,
}

#[derive(Deserialize)]
struct States {
    embeddings: Vec<Vec<f32>>,
    block_0: Vec<Vec<f32>>,
    last_block: Vec<Vec<f32>>,
    normed: Vec<Vec<f32>>,
}

/// What llama.cpp computed with some GGUF files.
#[derive(Deserialize)]
pub struct GgufGolden {
    /// The files.
    pub files: Vec<GgufFile>,
}

/// A file of `tests/fixtures/models`.
#[derive(Deserialize)]
pub struct GgufFile {
    /// Its name.
    pub file: String,
    /// Prompts and what follows them.
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
struct GoldenGradients {
    models: HashMap<String, Vec<GradientCase>>,
}

#[derive(Deserialize)]
struct GradientCase {
    name: String,
    /// Rows, positions, rows of the prompts, their positions.
    shape: [usize; 4],
    hidden: Vec<Vec<f32>>,
    prompts: Vec<Vec<Vec<f32>>>,
}

/// Reads a file of `tests/fixtures/golden`.
///
/// # Panics
/// Where it is not there or not what it should be.
#[must_use]
pub fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixtures::path("golden").join(name)).unwrap()).unwrap()
}

/// `model` gives the same tokens, and logits that are near.
///
/// # Panics
/// Where it does not.
pub async fn cases_agree(model: &Loaded, place: &Path, cases: &[Case]) {
    let place = place.display();
    for case in cases {
        let (logits, ids) = greedy(model, &case.prompt_ids, case.new_ids.len()).await;
        if let Some(wanted) = &case.last_logits {
            assert_near(&logits, wanted, TOLERANCE, &format!("{place}, logits of {}", case.name));
        }
        if let Some(wanted) = &case.last_logits_top16 {
            let found: Vec<f32> = wanted.iter().map(|(id, _)| logits[*id]).collect();
            let wanted: Vec<f32> = wanted.iter().map(|(_, score)| *score).collect();
            assert_near(&found, &wanted, TOLERANCE, &format!("{place}, logits of {}", case.name));
        }
        assert_eq!(ids, case.new_ids, "{place}, {}", case.name);
    }
}

/// The same tokens where all cases go on at once, `times` times over.
///
/// # Panics
/// Where they are not.
pub async fn cases_agree_at_once(model: &Loaded, place: &Path, cases: &[Case], times: usize) {
    let all: Vec<&Case> = cases.iter().cycle().take(cases.len() * times).collect();
    let found = join_all(all.iter().map(|case| greedy(model, &case.prompt_ids, case.new_ids.len()))).await;
    for (case, (_, ids)) in all.iter().zip(found) {
        assert_eq!(ids, case.new_ids, "{}, {} among others", place.display(), case.name);
    }
}

/// The tiny model of that name, loaded with f32 arithmetic whole (`None`) or with a part of its blocks, is what
/// transformers says: tokens of one conversation and of many at once, logits, embeddings, and hidden states between
/// blocks, where a swarm would cut, and after the last norm.
///
/// # Panics
/// Where it is not.
pub async fn transformers_agree(name: &str, load: impl AsyncFn(PathBuf, Option<BlockRange>) -> Loaded) {
    let golden: Golden = read(&format!("{name}.json"));
    let path = fixtures::path("models").join(name);
    let model = load(path.clone(), None).await;
    cases_agree(&model, &path, &golden.cases).await;
    cases_agree_at_once(&model, &path, &golden.cases, 3).await;

    let States { embeddings, block_0, last_block, normed } = golden.hidden.as_ref().unwrap();
    let blocks = model.engine.hosted().end();
    let mut hidden = embed(&model, &golden.cases[0].prompt_ids).await;
    assert_near(&hidden.to_f32(), &embeddings.concat(), TOLERANCE, "embeddings");
    for ((start, end), wanted) in [((0, 1), block_0), ((1, blocks), last_block)] {
        let range = BlockRange::new(start, end).unwrap();
        let engine = load(path.clone(), Some(range)).await.engine;
        assert_eq!(engine.hosted(), range);
        let need = SessionNeed { max_length: hidden.seq(), batch: 1 };
        let mut session = engine.open(range, need).await.unwrap();
        hidden = session.step(StepInput::from(hidden)).await.unwrap();
        assert_near(&hidden.to_f32(), &wanted.concat(), TOLERANCE, &format!("states after block {}", end - 1));
    }
    let hidden = model.local.normed(hidden).await.unwrap();
    assert_near(&hidden.to_f32(), &normed.concat(), TOLERANCE, "states after the last norm");
}

/// Gradients through all blocks of the tiny model of that name, loaded with f32 arithmetic, are what torch says.
///
/// # Panics
/// Where they are not.
pub async fn gradients_agree(name: &str, load: impl AsyncFn(PathBuf) -> Loaded) {
    let golden: GoldenGradients = read("gradients.json");
    let engine = load(fixtures::path("models").join(name)).await.engine;
    let cases = &golden.models[name];
    assert!(!cases.is_empty());
    for case in cases {
        let [batch, seq, rows, positions] = case.shape;
        let width = case.hidden[0].len();
        // As in scripts/golden/gradients.py.
        let states = |rows: usize, positions: usize, seed: u64| {
            Hidden::from_f32((rows, positions, width), &noise(rows * positions * width, seed)).unwrap()
        };
        let prompts = (0..engine.hosted().len() as u64).map(|nth| states(rows, positions, 10 + nth)).collect();
        let input = BackwardInput { hidden: states(batch, seq, 1), gradient: states(batch, seq, 2), prompts };
        let found = engine.backward(engine.hosted(), input).await.unwrap();
        let what = format!("{name}, {}, derivatives by", case.name);
        assert_near(&found.hidden.to_f32(), &case.hidden.concat(), TOLERANCE, &format!("{what} hidden states"));
        assert_eq!(found.prompts.len(), case.prompts.len());
        for (nth, (found, wanted)) in found.prompts.iter().zip(&case.prompts).enumerate() {
            assert_near(&found.to_f32(), &wanted.concat(), TOLERANCE, &format!("{what} the prompt of block {nth}"));
        }
    }
}
