//! Scores over mocked neighbours, in one piece and in many.

use std::{collections::HashMap, sync::Arc};

use super::*;
use crate::{
    routing::InProcessSwarm,
    session::{Catalogue, Limits, ModelEntry},
    testing::{self, Ledger},
};

fn service() -> (Arc<Ledger>, SessionService) {
    let ledger = Arc::<Ledger>::default();
    let entry = ModelEntry {
        tokenizer: Arc::new(testing::tokenizer()),
        local: Arc::new(testing::local(testing::spec("m"), testing::letter)),
        swarm: Arc::new(InProcessSwarm::new("m".into(), Arc::new(testing::engine(&ledger, 1)))),
    };
    let catalogue = Catalogue::new(vec![entry], "m".into()).unwrap();
    let store = Arc::new(testing::store(&Arc::new(HashMap::new().into())));
    let service =
        SessionService::new(catalogue, store, Limits::default(), testing::ambient(&Arc::new(1_000_000.into())));
    (ledger, service)
}

/// What the mocked model makes of a text: 9 for the letter that follows, 0 for 255 others.
fn expected(text: &str) -> Vec<Option<f64>> {
    let (mut sum, mut likely) = (0u32, None);
    let mut logprobs = Vec::new();
    for (position, token) in (1u32..).zip(testing::tokens(text)) {
        let total = (9f64.exp() + 255.0).ln();
        logprobs.push(likely.map(|likely| if likely == token { 9.0 - total } else { -total }));
        sum += position * token.0;
        likely = Some(testing::letter(sum % 997));
    }
    logprobs
}

#[tokio::test]
async fn a_text_is_scored_by_one_pass_or_piece_by_piece() {
    let (ledger, service) = service();
    for text in ["a", "hello", &"a long story, ".repeat(100)] {
        let scored = service.score(None, text).await.unwrap();
        assert_eq!(scored.iter().map(|s| s.text.as_str()).collect::<String>(), text);
        for (found, wanted) in scored.iter().map(|s| s.logprob).zip(expected(text)) {
            match (found, wanted) {
                (Some(found), Some(wanted)) => assert!((found - wanted).abs() < 1e-9, "{found} {wanted}"),
                (found, wanted) => assert_eq!(found, wanted),
            }
        }
        assert_eq!(ledger.open.load(std::sync::atomic::Ordering::SeqCst), 0, "nothing is kept");
    }
}

#[tokio::test]
async fn the_best_in_each_place_are_told() {
    let (_, service) = service();
    let scored = service.score_prompt(None, &Prompt::Tokens(testing::tokens("hello")), 2).await.unwrap();
    assert!(scored[0].best.is_empty(), "the first token follows nothing");
    for it in &scored[1..] {
        assert_eq!(it.best.len(), 2);
        assert!(it.best[0].logprob > it.best[1].logprob);
        assert!(it.best[0].logprob >= it.logprob.unwrap());
    }
}

#[tokio::test]
async fn what_cannot_be_scored_is_refused() {
    let (_, service) = service();
    assert!(matches!(service.score(None, "").await, Err(ReplyError::EmptyInput)));
    assert!(matches!(service.score(Some("x".into()), "a").await, Err(ReplyError::UnknownModel { .. })));
    let long = "a".repeat(5000);
    assert!(matches!(service.score(None, &long).await, Err(ReplyError::LengthNotAllowed { asked: 5000, .. })));
    let many = service.score_prompt(None, &Prompt::Text("a".to_owned()), 21).await.unwrap_err();
    assert_eq!(many.to_string(), "at most 20 logprobs are told, got 21");
    let unknown = service.score_prompt(None, &Prompt::Tokens(vec![TokenId(256)]), 0).await.unwrap_err();
    assert_eq!(unknown.to_string(), "the prompt has token 256, but the tokens of m are below 256");
}
