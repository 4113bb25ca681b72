//! Which of some scores is chosen: the rule that every shorter way, such as a screened head's, must come to as well.

use std::cmp::Ordering;

use crate::model::{Draw, Noise, TokenId};

/// How much of the vocabulary is put in order at first when only the most probable tokens matter.
const HEAD: usize = 256;

/// The highest score; the lowest id among equals.
pub(super) fn best(scores: &[(TokenId, f32)]) -> Option<TokenId> {
    scores.iter().max_by(|a, b| higher(b, a)).map(|(token, _)| *token)
}

/// Keeps the `k` highest scores, of equals those of lower id.
pub(super) fn keep_top_k(scores: &mut Vec<(TokenId, f32)>, k: usize) {
    if 0 < k && k < scores.len() {
        scores.select_nth_unstable_by(k - 1, higher);
    }
    scores.truncate(k);
}

/// What `draw` takes of scores that were penalised; `None` where none is possible.
pub(super) fn drawn(draw: &Draw, mut scores: Vec<(TokenId, f32)>) -> Option<TokenId> {
    // Sums must not depend on the order of arrival.
    scores.sort_unstable_by_key(|(token, _)| *token);
    let top = scores.iter().map(|(_, score)| *score).max_by(f32::total_cmp)?;
    if top == f32::NEG_INFINITY {
        return None;
    }
    if draw.min_p.is_some() {
        scores.retain(|(_, score)| draw.keeps(*score, top));
    }
    if let Some(share) = draw.share() {
        keep_nucleus(&mut scores, share, |score| draw.weight(score, top));
        scores.sort_unstable_by_key(|(token, _)| *token);
    }
    let (mut words, mut best) = (draw.noise.words(), None::<(f64, TokenId)>);
    for (token, score) in scores {
        let word = words.of(token.0);
        let highest = best.map_or(f64::NEG_INFINITY, |(key, _)| key);
        if draw.key(score, Noise::at_most(word)) >= highest {
            let key = draw.key(score, Noise::gumbel(word));
            if best.is_none() || key > highest {
                best = Some((key, token));
            }
        }
    }
    best.map(|(_, token)| token)
}

/// The higher score, or the lower id, comes first.
pub(super) fn higher(a: &(TokenId, f32), b: &(TokenId, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the fewest of the highest scores whose weight reaches the share `p` of all: those before which there is less.
fn keep_nucleus(scores: &mut Vec<(TokenId, f32)>, p: f64, weight: impl Fn(f32) -> f64) {
    let enough = p * scores.iter().map(|(_, score)| weight(*score)).sum::<f64>();
    let (mut sorted, mut reached, mut head) = (0, 0.0, HEAD);
    while sorted < scores.len() {
        let end = head.min(scores.len());
        if end < scores.len() {
            scores[sorted..].select_nth_unstable_by(end - sorted - 1, higher);
        }
        scores[sorted..end].sort_unstable_by(higher);
        for at in sorted..end {
            reached += weight(scores[at].1);
            if reached >= enough {
                scores.truncate(at + 1);
                return;
            }
        }
        sorted = end;
        head *= 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_equals_the_first_are_kept() {
        let mut scores: Vec<(TokenId, f32)> = (0..100).rev().map(|id| (TokenId(id), (id % 3) as f32)).collect();
        keep_top_k(&mut scores, 4);
        scores.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(scores.iter().map(|(token, _)| token.0).collect::<Vec<_>>(), [2, 5, 8, 11]);
        keep_nucleus(&mut scores, 0.5, |_| 1.0);
        assert_eq!(scores, [(TokenId(2), 2.0), (TokenId(5), 2.0)]);
    }

    proptest! {
        #[test]
        fn the_nucleus_is_the_smallest_set_that_reaches_p(
            scores in prop::collection::vec(-90i8..90, 1..1200),
            p in 0.01f64..0.99,
        ) {
            let pairs: Vec<(TokenId, f32)> = (0u32..).map(TokenId).zip(scores.iter().map(|s| f32::from(*s) / 9.0)).collect();
            let weight = |score: f32| f64::from(score).exp();
            let mut kept = pairs.clone();
            keep_nucleus(&mut kept, p, weight);
            let enough = p * pairs.iter().map(|(_, score)| weight(*score)).sum::<f64>();
            let mass: f64 = kept.iter().map(|(_, score)| weight(*score)).sum();
            let last = *kept.last().unwrap();
            prop_assert!(mass >= enough && mass - weight(last.1) < enough * (1.0 + 1e-9));
            prop_assert!(pairs.iter().all(|pair| kept.contains(pair) == (higher(pair, &last) != Ordering::Greater)));
        }
    }
}
