//! Contract of [`LocalModel`]: one function per promise, [`all`] for the lot.

use std::{future::Future, sync::Arc, time::Duration};

use corolla_domain::{
    generation::{Sampler, Sampling},
    model::{Draw, Hidden, LogitRow, Logits, Noise, Penalties, TokenId, Want},
    ports::{FaultKind, LocalModel},
};
use futures_util::future::join_all;

/// A model to be tried.
pub struct Subject {
    /// The model. Its vocabulary has at least 16 tokens.
    pub model: Arc<dyn LocalModel>,
    /// How far two computations of the same number may be apart, as a part of the largest number.
    pub tolerance: f32,
}

/// All promises, each with a model that `make` makes.
pub async fn all<F: Future<Output = Subject>>(make: impl Fn() -> F) {
    embeddings_have_the_shape_of_their_tokens(&make().await).await;
    a_row_of_embeddings_equals_the_lone_call(&make().await).await;
    bad_tokens_are_refused(&make().await).await;
    every_position_gets_a_row_over_the_whole_vocabulary(&make().await).await;
    a_row_of_scores_equals_the_lone_call(&make().await).await;
    scores_asked_for_at_once_equal_lone_calls(&make().await).await;
    top_carries_the_best_and_the_named(&make().await).await;
    a_draw_is_that_of_all_scores(&make().await).await;
    bad_wishes_are_refused(&make().await).await;
    the_last_norm_takes_the_size_away(&make().await).await;
    dropped_calls_leave_it_working(&make().await).await;
}

fn tokens(ids: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
    ids.into_iter().map(TokenId).collect()
}

fn states(subject: &Subject, batch: usize, seq: usize) -> Hidden {
    let width = subject.model.spec().hidden;
    Hidden::from_f32((batch, seq, width), &noise(batch * seq * width, 11)).expect("a shape that fits")
}

fn dense(row: &LogitRow) -> Vec<f32> {
    let mut pairs = row.clone().into_pairs();
    pairs.sort_by_key(|(token, _)| *token);
    assert!((0u32..).zip(&pairs).all(|(id, (token, _))| token.0 == id), "a dense row carries each token once");
    pairs.into_iter().map(|(_, score)| score).collect()
}

async fn every_score(subject: &Subject, hidden: Hidden) -> Vec<Vec<f32>> {
    let logits = subject.model.logits(hidden, Want::All).await.expect("scores");
    logits.rows.iter().map(dense).collect()
}

/// `[batch, seq]` tokens become `[batch, seq, hidden]` states of finite numbers.
pub async fn embeddings_have_the_shape_of_their_tokens(subject: &Subject) {
    let hidden = subject.model.embed(vec![tokens(1..6), tokens(2..7)]).await.expect("embeddings");
    assert_eq!((hidden.batch(), hidden.seq(), hidden.width()), (2, 5, subject.model.spec().hidden));
    assert!(hidden.to_f32().iter().all(|v| v.is_finite()));
    let last = u32::try_from(subject.model.spec().vocab - 1).expect("a vocabulary of less than 2^32 tokens");
    subject.model.embed(vec![tokens([0, last])]).await.expect("the first and the last token are valid");
}

/// A row does not depend on its neighbours.
pub async fn a_row_of_embeddings_equals_the_lone_call(subject: &Subject) {
    let rows = [tokens(1..6), tokens(5..10), tokens([1, 1, 1, 1, 1])];
    let together = subject.model.embed(rows.to_vec()).await.expect("embeddings").to_f32();
    for (row, found) in rows.iter().zip(together.chunks_exact(together.len() / rows.len())) {
        let alone = subject.model.embed(vec![row.clone()]).await.expect("embeddings of one row");
        assert_near(found, &alone.to_f32(), subject.tolerance, "a row of embeddings");
    }
}

/// No rows, empty rows, ragged rows and tokens outside the vocabulary are `InvalidInput`.
pub async fn bad_tokens_are_refused(subject: &Subject) {
    let vocab = u32::try_from(subject.model.spec().vocab).expect("a vocabulary of less than 2^32 tokens");
    let bad = [
        Vec::new(),
        vec![Vec::new()],
        vec![tokens([1]), Vec::new()],
        vec![tokens([1, 2]), tokens([1])],
        vec![tokens([1, vocab])],
        vec![tokens([u32::MAX])],
    ];
    for rows in bad {
        let error = subject.model.embed(rows.clone()).await.expect_err("bad tokens are refused");
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{rows:?}: {error}");
    }
}

/// States after the last norm have the shape they had, do not depend on their neighbours, and not on their size.
pub async fn the_last_norm_takes_the_size_away(subject: &Subject) {
    let hidden = states(subject, 2, 5);
    let normed = subject.model.normed(hidden.clone()).await.expect("states");
    assert_eq!((normed.batch(), normed.seq(), normed.width()), (2, 5, subject.model.spec().hidden));
    let found = normed.to_f32();
    assert!(found.iter().all(|value| value.is_finite()));
    let numbers = hidden.to_f32();
    let larger: Vec<f32> = numbers.iter().map(|value| value * 64.0).collect();
    let larger = Hidden::from_f32((2, 5, hidden.width()), &larger).expect("a shape that fits");
    let larger = subject.model.normed(larger).await.expect("larger states").to_f32();
    // The norms add a little to the variance, which small states notice.
    assert_near(&larger, &found, subject.tolerance.max(1e-3), "states of another size");
    let alone = hidden.rows(1, 2).and_then(|row| row.positions(3, 4)).expect("one position");
    let alone = subject.model.normed(alone).await.expect("one state").to_f32();
    assert_near(
        &found[8 * hidden.width()..9 * hidden.width()],
        &alone,
        subject.tolerance,
        "a state after the last norm",
    );
    let wrong =
        Hidden::from_f32((1, 1, hidden.width() + 1), &vec![0.5; hidden.width() + 1]).expect("a shape that fits");
    let error = subject.model.normed(wrong).await.expect_err("another width is refused");
    assert_eq!(error.kind(), FaultKind::InvalidInput, "{error}");
}

/// `Want::All`: a row for each position, a finite score for each token.
pub async fn every_position_gets_a_row_over_the_whole_vocabulary(subject: &Subject) {
    let rows = every_score(subject, states(subject, 2, 3)).await;
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_eq!(row.len(), subject.model.spec().vocab);
        assert!(row.iter().all(|score| score.is_finite()));
    }
}

/// A position's scores do not depend on its neighbours.
pub async fn a_row_of_scores_equals_the_lone_call(subject: &Subject) {
    let hidden = states(subject, 2, 19);
    let together = every_score(subject, hidden.clone()).await;
    for (row, at) in [(0, 0), (0, 7), (0, 18), (1, 0), (1, 18)] {
        let alone = hidden.rows(row, row + 1).and_then(|row| row.positions(at, at + 1)).expect("one position");
        let alone = every_score(subject, alone).await;
        assert_near(&together[19 * row + at], &alone[0], subject.tolerance, "a row of scores");
    }
}

/// Calls that come at the same time do not depend on each other.
pub async fn scores_asked_for_at_once_equal_lone_calls(subject: &Subject) {
    let hidden = states(subject, 1, 21);
    let whole = every_score(subject, hidden.clone()).await;
    let parts = (0..7).map(|nth| hidden.positions(3 * nth, 3 * nth + 1 + nth % 3).expect("positions"));
    let found = join_all(parts.map(|part| every_score(subject, part))).await;
    for (nth, rows) in found.iter().enumerate() {
        assert_eq!(rows.len(), 1 + nth % 3);
        for (row, wanted) in rows.iter().zip(&whole[3 * nth..]) {
            assert_near(row, wanted, subject.tolerance, "a row of scores among others");
        }
    }
}

/// `Want::Top` carries at least the best `k` and those named, each once, with the scores that `Want::All` has.
pub async fn top_carries_the_best_and_the_named(subject: &Subject) {
    let hidden = states(subject, 1, 3);
    let all = every_score(subject, hidden.clone()).await;
    for k in [1, 5, subject.model.spec().vocab, usize::MAX] {
        let also = tokens([3, 3, 0]);
        let want = Want::Top { k, also: also.clone() };
        let Logits { rows } = subject.model.logits(hidden.clone(), want).await.expect("the best scores");
        assert_eq!(rows.len(), all.len());
        for (row, all) in rows.into_iter().zip(&all) {
            let mut pairs = row.into_pairs();
            pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
            let mut best = all.clone();
            best.sort_by(|a, b| b.total_cmp(a));
            best.truncate(k);
            let found: Vec<f32> = pairs.iter().take(best.len()).map(|(_, score)| *score).collect();
            assert_near(&found, &best, subject.tolerance, "the best scores");
            for (token, score) in &pairs {
                assert_near(&[*score], &[all[token.0 as usize]], subject.tolerance.max(1e-4), "a score carried");
            }
            assert!(also.iter().all(|named| pairs.iter().any(|(token, _)| token == named)), "the named are carried");
            pairs.sort_by_key(|(token, _)| *token);
            pairs.dedup_by_key(|(token, _)| *token);
            assert!(pairs.len() >= k.min(all.len()), "each token comes once");
        }
    }
}

/// What `Want::Drawn` leads a sampler to is what all scores lead it to.
pub async fn a_draw_is_that_of_all_scores(subject: &Subject) {
    let hidden = states(subject, 1, 4);
    let prompt: Vec<TokenId> = tokens([1, 2]);
    let plain = Sampling::at_temperature(0.8);
    for (at, sampling) in [
        plain.clone(),
        Sampling { top_p: Some(0.7), ..plain.clone() },
        Sampling { min_p: Some(0.2), ..plain.clone() },
        Sampling { top_p: Some(0.9), repetition_penalty: 1.3, ..plain.clone() },
        Sampling { top_k: Some(4), ..plain },
    ]
    .into_iter()
    .cycle()
    .take(20)
    .enumerate()
    {
        let position = hidden.positions(at % 4, at % 4 + 1).expect("a position");
        let sampling = Sampling { seed: Some(at as u64), ..sampling };
        let [mut asked, mut told] = [(); 2].map(|()| Sampler::new(sampling.clone(), &prompt, 0));
        let scores = |want| subject.model.logits(position.clone(), want);
        let mut few = scores(asked.want()).await.expect("a draw").rows;
        let mut all = scores(Want::All).await.expect("all scores").rows;
        let found = asked.pick(few.pop().expect("a row")).expect("a token");
        assert_eq!(found, told.pick(all.pop().expect("a row")).expect("a token"), "{sampling:?}");
    }
}

/// States of the wrong width, the best 0 tokens and named tokens outside the vocabulary are `InvalidInput`.
pub async fn bad_wishes_are_refused(subject: &Subject) {
    let spec = subject.model.spec();
    let wide = Hidden::from_f32((1, 1, spec.hidden + 1), &noise(spec.hidden + 1, 1)).expect("a shape that fits");
    let outside = TokenId(u32::try_from(spec.vocab).expect("a vocabulary of less than 2^32 tokens"));
    let drawn = |temperature, seen: &[TokenId]| {
        let seen = seen.iter().map(|token| (*token, 0)).collect();
        let (penalties, noise) = (Arc::new(Penalties { seen, ..Penalties::none() }), Noise { seed: 1, draw: 0 });
        Want::Drawn(Draw { temperature, min_p: None, top_p: None, penalties, noise })
    };
    let bad = [
        (wide, Want::All),
        (states(subject, 1, 1), Want::Top { k: 0, also: Vec::new() }),
        (states(subject, 1, 1), Want::Top { k: 1, also: vec![outside] }),
        (states(subject, 1, 1), drawn(1.0, &[outside])),
        (states(subject, 1, 1), drawn(0.0, &[])),
    ];
    for (hidden, want) in bad {
        let error = subject.model.logits(hidden, want.clone()).await.expect_err("a bad wish is refused");
        assert_eq!(error.kind(), FaultKind::InvalidInput, "{want:?}: {error}");
    }
}

/// A hundred calls dropped before their first poll, or some time after it, do no harm.
pub async fn dropped_calls_leave_it_working(subject: &Subject) {
    let before = every_score(subject, states(subject, 1, 2)).await;
    for nth in 0..50 {
        let embedding = subject.model.embed(vec![tokens(1..9)]);
        let scoring = subject.model.logits(states(subject, 1, 2), Want::All);
        if nth % 3 > 0 {
            let a_moment = Duration::from_micros(20 * nth);
            drop(tokio::time::timeout(a_moment, futures_util::future::join(embedding, scoring)).await);
        }
    }
    let after = every_score(subject, states(subject, 1, 2)).await;
    for (before, after) in before.iter().zip(&after) {
        assert_near(after, before, subject.tolerance, "scores after dropped calls");
    }
}

/// Numbers in -1..1 without a pattern, the same for the same seed.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// Asserts that `found` equals `wanted` up to `tolerance` times its largest number.
///
/// # Panics
/// Where it does not, with the worst pair of numbers.
pub fn assert_near(found: &[f32], wanted: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), wanted.len(), "the length of {what}");
    let largest = wanted.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
    let worst = found.iter().zip(wanted).max_by(|a, b| (a.0 - a.1).abs().total_cmp(&(b.0 - b.1).abs()));
    if let Some((found, wanted)) = worst {
        let off = (found - wanted).abs() / largest;
        assert!(off <= tolerance, "{what}: {found} instead of {wanted}, off by {off:e} of {largest}");
    }
}
