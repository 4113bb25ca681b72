//! A screened head gives what the whole one gives, to the bit, for every way of keeping weights and of asking.

use std::path::Path;

use corolla_candle::{Activations, Cpu, Target};
use corolla_compute::pick;
use corolla_domain::{
    fit,
    generation::{Sampler, Sampling},
    model::{Hidden, LogitRow, TokenId, Want},
    ports::LocalModel,
};
use tempfile::TempDir;
use testkit::{
    local_model::noise,
    tiny::{Dtype, Tiny},
};

use crate::{
    contract::{SIZE, in_folder},
    run::{config, load_as},
};

const STATES: usize = 9;
const WIDTH: usize = 48;

fn target(dtype: fit::Dtype, activations: Activations, screen: Option<fit::Screen>) -> Target {
    Target::Cpu(Cpu { activations, screen, threads: Some(2), ..Cpu::new(dtype) })
}

/// Scores of all tokens for one state.
async fn all(model: &dyn LocalModel, state: &[f32]) -> Vec<f32> {
    let hidden = Hidden::from_f32((1, 1, WIDTH), state).unwrap();
    match model.logits(hidden, Want::All).await.unwrap().rows.remove(0) {
        LogitRow::Dense(scores) => scores,
        LogitRow::Sparse(_) => panic!("not all scores"),
    }
}

fn bits(row: &LogitRow) -> Vec<(TokenId, u32)> {
    row.clone().into_pairs().into_iter().map(|(token, score)| (token, score.to_bits())).collect()
}

#[tokio::test]
async fn scores_are_those_of_the_whole_head() {
    let llama = || Tiny::llama(SIZE);
    let mut screens = fit::Screen::ALL.into_iter().cycle();
    // From 16 bits, f32 and bf16 use the head where it lies in the file.
    for (tiny, stored) in [(llama(), Dtype::F32), (Tiny::bloom(WIDTH, 6, 3), Dtype::F32), (llama(), Dtype::BF16)] {
        let folder = TempDir::new().unwrap();
        tiny.write_folder(folder.path(), stored, 1);
        for dtype in [fit::Dtype::F32, fit::Dtype::Bf16, fit::Dtype::F16] {
            for activations in [Activations::Auto, Activations::F32] {
                let plain = load_as(config(folder.path()), target(dtype, activations, None)).await.local;
                let (states, screen) = (noise(STATES * WIDTH, 11), screens.next());
                let screened = load_as(config(folder.path()), target(dtype, activations, screen)).await.local;
                let hidden = Hidden::from_f32((1, STATES, WIDTH), &states).unwrap();
                // A few, some by name, and so many that the screen has no part in it.
                for (k, also) in [(1, vec![]), (3, vec![TokenId(0), TokenId(95)]), (60, vec![TokenId(7)])] {
                    let want = Want::Top { k, also };
                    let found = screened.logits(hidden.clone(), want.clone()).await.unwrap().rows;
                    assert_eq!(found.len(), STATES);
                    for (state, found) in states.chunks_exact(WIDTH).zip(&found) {
                        let wanted = pick(&all(&*plain, state).await, &want);
                        assert_eq!(bits(found), bits(&wanted), "{screen:?} {dtype} {activations:?} {want:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn tokens_that_are_drawn_are_those_of_the_whole_head() {
    let (folder, tiny) = (TempDir::new().unwrap(), Tiny::bloom(WIDTH, 6, 3));
    tiny.write_folder(folder.path(), Dtype::F32, 1);
    let load =
        async |screen| load_as(config(folder.path()), target(fit::Dtype::Bf16, Activations::Auto, screen)).await.local;
    let plain = load(None).await;
    let screened = [load(Some(fit::Screen::Int8)).await, load(Some(fit::Screen::Int4)).await];
    let (cold, warm) = (Sampling::at_temperature(0.05), Sampling::at_temperature(1.0));
    let ways = [
        cold.clone(),
        Sampling { top_p: Some(0.8), ..cold.clone() },
        Sampling { min_p: Some(0.3), presence_penalty: 0.5, ..cold },
        Sampling { top_p: Some(0.5), ..warm.clone() },
        Sampling { top_k: Some(5), ..warm },
    ];
    let mut answered = [0; 2];
    for (seed, state) in (0u64..).zip(noise(50 * WIDTH, 12).chunks_exact(WIDTH)) {
        let scores = all(&*plain, state).await;
        for sampling in &ways {
            let sampler = || Sampler::new(sampling.clone(), &[TokenId(4)], seed);
            let wanted = sampler().pick(LogitRow::Dense(scores.clone())).unwrap();
            for (screened, answered) in screened.iter().zip(&mut answered) {
                let (hidden, mut of_few) = (Hidden::from_f32((1, 1, WIDTH), state).unwrap(), sampler());
                let row = screened.logits(hidden, of_few.want()).await.unwrap().rows.remove(0);
                *answered += usize::from(matches!(row, LogitRow::Sparse(_)));
                assert_eq!(of_few.pick(row).unwrap(), wanted, "state {seed}: {sampling:?}");
            }
        }
    }
    assert!(answered[0] >= 100 && answered[1] >= 30, "the screens answered {answered:?} of 250 draws");
}

#[tokio::test]
async fn the_contracts_hold_with_a_screen() {
    in_folder(
        &Tiny::llama(SIZE),
        Dtype::F32,
        target(fit::Dtype::Stored, Activations::Auto, Some(fit::Screen::Int8)),
        1e-5,
    )
    .await;
    in_folder(
        &Tiny::bloom(WIDTH, 6, 3),
        Dtype::BF16,
        target(fit::Dtype::Stored, Activations::Auto, Some(fit::Screen::Int4)),
        0.02,
    )
    .await;
    in_folder(
        &Tiny::bloom(WIDTH, 6, 3),
        Dtype::BF16,
        target(fit::Dtype::F16, Activations::F32, Some(fit::Screen::Int4)),
        1e-5,
    )
    .await;
}

#[tokio::test]
async fn a_screen_is_kept_beside_the_weights_it_is_of() {
    for screen in fit::Screen::ALL {
        let (folder, mut tiny) = (TempDir::new().unwrap(), Tiny::llama(SIZE));
        tiny.write_folder(folder.path(), Dtype::F32, 1);
        let kept = folder.path().join(format!("model.safetensors.f32.{screen}.screen"));
        assert_screened_like_plain(folder.path(), screen).await;
        let first = std::fs::read(&kept).unwrap();
        assert_screened_like_plain(folder.path(), screen).await;
        assert_eq!(std::fs::read(&kept).unwrap(), first);

        let mut damaged = first.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&kept, &damaged).unwrap();
        assert_screened_like_plain(folder.path(), screen).await;
        let again = std::fs::read(&kept).unwrap();
        assert!(again != damaged && again.len() == first.len(), "it was made again");
        assert_eq!(again == first, screen == fit::Screen::Int8, "4 bits are rounded with new random numbers");

        let (_, head) = tiny.tensors.get_mut("lm_head.weight").unwrap();
        head.iter_mut().for_each(|number| *number *= -0.5);
        tiny.write_folder(folder.path(), Dtype::F32, 1);
        assert_screened_like_plain(folder.path(), screen).await;
        assert_ne!(std::fs::read(&kept).unwrap(), again, "these are other weights");
    }
}

async fn assert_screened_like_plain(folder: &Path, screen: fit::Screen) {
    let load =
        async |screen| load_as(config(folder), target(fit::Dtype::Stored, Activations::Auto, screen)).await.local;
    let (plain, screened) = (load(None).await, load(Some(screen)).await);
    let (state, want) = (noise(WIDTH, 5), Want::Top { k: 4, also: Vec::new() });
    let found = screened.logits(Hidden::from_f32((1, 1, WIDTH), &state).unwrap(), want.clone()).await.unwrap().rows;
    assert_eq!(bits(&found[0]), bits(&pick(&all(&*plain, &state).await, &want)));
}
