//! Scores over mocked neighbours, in one piece and in many.

use std::{collections::HashMap, sync::Arc};

use super::*;
use crate::{
    ports::FaultKind,
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
async fn what_cannot_be_scored_is_refused() {
    let (_, service) = service();
    assert!(matches!(service.score(None, "").await, Err(ReplyError::EmptyInput)));
    assert!(matches!(service.score(Some("x".into()), "a").await, Err(ReplyError::UnknownModel { .. })));
    let long = "a".repeat(5000);
    assert!(matches!(service.score(None, &long).await, Err(ReplyError::LengthNotAllowed { asked: 5000, .. })));
    let nan = LogitRow::Dense(vec![0.0, f32::NAN]);
    assert_eq!(logprob(nan, TokenId(0)).unwrap_err().kind(), FaultKind::Internal);
    assert!(logprob(LogitRow::Dense(vec![0.0]), TokenId(1)).is_err());
}
