//! The loop over mocked neighbours.

use std::{
    future::Future,
    sync::atomic::Ordering::SeqCst,
    task::{Context, Waker},
};

use super::*;
use crate::{
    model::{BlockRange, Logits},
    ports::{BlockEngine, MockLocalModel, SessionNeed, TokenSet},
    testing::{self, EOS, Ledger},
};

struct House {
    ledger: Arc<Ledger>,
    model: TurnModel,
}

fn house(next: impl Fn(u32) -> TokenId + Send + Sync + 'static) -> House {
    let model = TurnModel {
        tokenizer: Arc::new(testing::tokenizer()),
        local: Arc::new(testing::local(testing::spec("m"), next)),
    };
    House { ledger: Arc::default(), model }
}

impl House {
    async fn conversation(&self, text: &str, max_length: usize) -> Box<Conversation> {
        let engine = testing::engine(&self.ledger, 9);
        let blocks = engine.open(BlockRange::first(2), SessionNeed { max_length, batch: 1 }).await.unwrap();
        Box::new(Conversation { tokens: testing::tokens(text), unread: 0, max_length, blocks })
    }

    fn turn(
        &self,
        conversation: Box<Conversation>,
        rule: StopRule,
        new_tokens: usize,
        prefill_chunk: usize,
    ) -> Turn<Box<Conversation>> {
        Turn::new(self.model.clone(), conversation, (Sampling::greedy(), 0), rule, new_tokens, prefill_chunk).unwrap()
    }
}

async fn run(turn: &mut Turn<Box<Conversation>>) -> (String, FinishReason) {
    let mut text = String::new();
    loop {
        let chunk = turn.next().await.unwrap().expect("a finish reason comes first");
        text += &chunk.text;
        if let Some(reason) = chunk.finish {
            assert_eq!(turn.next().await.unwrap(), None);
            return (text, reason);
        }
    }
}

#[tokio::test]
async fn the_size_of_the_prefill_chunks_does_not_matter() {
    let house = house(testing::letter);
    let mut texts = Vec::new();
    for prefill_chunk in [1, 2, 5, 1000] {
        let conversation = house.conversation("a prompt", 64).await;
        let mut turn = house.turn(conversation, StopRule::default(), 12, prefill_chunk);
        texts.push(run(&mut turn).await);
        assert_eq!(turn.computed(), 8 + 11, "the last token is not fed");
    }
    assert_eq!(texts[0].0.len(), 12);
    assert_eq!(texts[0].1, FinishReason::Length);
    assert!(texts.iter().all(|t| *t == texts[0]), "{texts:?}");
}

#[tokio::test]
async fn the_end_of_text_ends_the_reply_unless_it_is_ignored() {
    let end_now = |_| EOS;
    let house = house(end_now);
    for (skip_special, text) in [(false, "</s>"), (true, "")] {
        let rule = StopRule { skip_special, ..StopRule::default() };
        let mut turn = house.turn(house.conversation("a", 64).await, rule, 5, 8);
        assert_eq!(run(&mut turn).await, (text.to_owned(), FinishReason::EndOfText(EOS)));
    }
    let rule = StopRule { ignore_eos: true, ..StopRule::default() };
    let mut turn = house.turn(house.conversation("a", 64).await, rule, 2, 8);
    assert_eq!(run(&mut turn).await, ("</s></s>".to_owned(), FinishReason::Length));
}

#[tokio::test]
async fn a_stop_sequence_cuts_the_text_and_keeps_the_tokens() {
    let house = house(testing::letter);
    let whole = run(&mut house.turn(house.conversation("x", 64).await, StopRule::default(), 10, 8)).await.0;
    let stop = whole[3..6].to_owned();
    let rule = StopRule { sequences: vec![stop.clone()], include: true, ..StopRule::default() };
    let mut turn = house.turn(house.conversation("x", 64).await, rule, 10, 8);
    let (text, reason) = run(&mut turn).await;
    assert_eq!((text.as_str(), reason), (&whole[..6], FinishReason::StopSequence(stop)));
    assert_eq!(turn.conversation().tokens.len(), 1 + 6);
}

#[tokio::test]
async fn a_full_session_ends_the_reply_with_what_was_produced() {
    let house = house(testing::letter);
    let mut turn = house.turn(house.conversation("abcd", 6).await, StopRule::default(), 10, 8);
    let (text, reason) = run(&mut turn).await;
    assert_eq!(text.len(), 3);
    assert_eq!(reason, FinishReason::SessionFull { position: 6, needed: 1, max_length: 6 });
}

#[tokio::test]
async fn a_dropped_step_can_be_taken_again() {
    let house = house(testing::letter);
    let undisturbed = run(&mut house.turn(house.conversation("prompt", 64).await, StopRule::default(), 6, 2)).await;
    for hang in 1..8 {
        let conversation = house.conversation("prompt", 64).await;
        let mut turn = house.turn(conversation, StopRule::default(), 6, 2);
        house.ledger.hang.store(hang, SeqCst);
        let mut text = String::new();
        let reason = loop {
            let next = {
                let mut next = Box::pin(turn.next());
                let poll = next.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                drop(next);
                poll
            };
            let std::task::Poll::Ready(chunk) = next else { continue };
            let chunk = chunk.unwrap().unwrap();
            text += &chunk.text;
            if let Some(reason) = chunk.finish {
                break reason;
            }
        };
        assert_eq!((text, reason), undisturbed, "hung at step {hang}");
    }
}

#[tokio::test]
async fn characters_of_several_tokens_come_out_whole() {
    let flower: Vec<u8> = "🌸é".bytes().collect();
    let at = std::sync::atomic::AtomicUsize::new(0);
    let house = house(move |_| TokenId(u32::from(flower[at.fetch_add(1, SeqCst) % 6])));
    let mut turn = house.turn(house.conversation("x", 64).await, StopRule::default(), 7, 8);
    let mut texts = Vec::new();
    while let Some(chunk) = turn.next().await.unwrap() {
        texts.push(chunk.text);
    }
    assert_eq!(texts, ["", "", "", "🌸", "", "é", ""]);
    assert_eq!(turn.conversation().unread, 1, "the next reply goes on with the character that has begun");
}

#[tokio::test]
async fn a_reply_without_anything_to_continue_is_refused() {
    let house = house(testing::letter);
    let conversation = house.conversation("", 64).await;
    let turn = Turn::new(house.model.clone(), conversation, (Sampling::greedy(), 0), StopRule::default(), 1, 8);
    assert!(turn.is_err());
}

/// A head that tells nothing but the token that is drawn: the letter of the seed.
#[tokio::test]
async fn another_reply_draws_anew_and_the_blocks_have_nothing_to_do() {
    let mut local = MockLocalModel::new();
    local.expect_spec().returning(|| Arc::new(testing::spec("m")));
    local.expect_embed().returning(|rows| {
        let numbers: Vec<f32> = rows[0].iter().map(|token| token.0 as f32).collect();
        Hidden::from_f32((1, numbers.len(), 1), &numbers)
    });
    local.expect_logits().returning(|_, want| {
        let Want::Drawn(draw) = want else { panic!("a draw, not {want:?}") };
        let drawn = TokenId(u32::from(b'a') + draw.noise.seed as u32);
        Ok(Logits { rows: vec![LogitRow::Sparse(vec![(drawn, 0.0)])] })
    });
    let mut house = house(testing::letter);
    house.model.local = Arc::new(local);
    let (model, conversation) = (house.model.clone(), house.conversation("abcdef", 64).await);
    let sampling = (Sampling::at_temperature(1.0), 0);
    let mut turn = Turn::new(model, conversation, sampling, StopRule::default(), 3, 4).unwrap();
    assert_eq!(run(&mut turn).await.0, "aaa");
    assert_eq!(turn.computed(), 6 + 2);
    turn.again(1, 7);
    assert_eq!(run(&mut turn).await.0, "hhh");
    assert_eq!(turn.computed(), 6 + 2 + 2);
}

#[tokio::test]
async fn a_grammar_leaves_only_what_it_allows_and_begins_anew() {
    /// Digits, as many as are left, then the end.
    struct Digits(usize);

    #[async_trait::async_trait]
    impl Constraint for Digits {
        async fn allowed(&self) -> Result<TokenSet, PortError> {
            let end = (self.0 == 0).then_some(EOS);
            let digits = (b'0'..=b'9').map(|digit| TokenId(u32::from(digit))).filter(|_| self.0 > 0);
            Ok(end.into_iter().chain(digits).collect())
        }

        fn take(&mut self, _: TokenId) -> Result<(), PortError> {
            self.0 = self.0.saturating_sub(1);
            Ok(())
        }

        fn anew(&self) -> Box<dyn Constraint> {
            Box::new(Self(3))
        }
    }

    let house = house(testing::letter);
    let rule = StopRule { skip_special: true, ..StopRule::default() };
    let turn = house.turn(house.conversation("a", 64).await, rule, 9, 8);
    let mut turn = turn.within(Some(Box::new(Digits(3))));
    let first = run(&mut turn).await;
    assert_eq!(first, ("000".to_owned(), FinishReason::EndOfText(EOS)), "of equal scores the lowest token wins");
    turn.again(1, 0);
    assert_eq!(run(&mut turn).await, first);
}
