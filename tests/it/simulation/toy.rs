//! A model in exact arithmetic: every block's answer depends on all it was fed before and on the order, so that a
//! position that was lost, doubled, misplaced or left over from another time changes all later tokens.

use std::sync::Arc;

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, CallForm, Chat, Grammar, Hidden, LogitRow, Logits, ModelSpec, TokenId, Want},
    ports::{Constraint, FaultKind, LocalModel, PortError, Tokenizer},
};

/// Whole numbers below it are exact as f32, their products as u64.
const PRIME: u64 = 65_521;
/// Tokens there are. Two different states are the same token once in so many times.
const VOCAB: u32 = 4099;
/// The character of token 0; one token a character.
const FIRST: u32 = 0x4e00;

pub(super) const MODEL: &str = "toy";

/// What a run of blocks remembers.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    first: usize,
    positions: u64,
    sums: Vec<u64>,
}

impl Cache {
    pub(super) fn new(blocks: BlockRange) -> Self {
        Self { first: blocks.start(), positions: 0, sums: vec![0; blocks.len()] }
    }

    /// The same blocks, before they were fed anything.
    pub(super) fn fresh(&self) -> Self {
        Self { positions: 0, sums: vec![0; self.sums.len()], ..*self }
    }

    pub(super) fn blocks(&self) -> usize {
        self.sums.len()
    }

    /// The next position through all blocks. What is no number counts as 0.
    pub(super) fn feed(&mut self, input: f32) -> f32 {
        self.positions += 1;
        let mut state = input as u64;
        for (block, sum) in (self.first as u64..).zip(&mut self.sums) {
            *sum = (*sum + (self.positions + 7 * block) * (state + 1)) % PRIME;
            state = (3 * *sum + block) % PRIME;
        }
        state as f32
    }
}

/// The token that follows a state.
pub(super) fn follower(state: f32) -> TokenId {
    TokenId(state as u32 % VOCAB)
}

/// Embedding: the token's number.
pub(super) fn embedded(token: TokenId) -> f32 {
    token.0 as f32
}

pub(super) fn characters(tokens: &[TokenId]) -> String {
    tokens.iter().map(|t| char::from_u32(FIRST + t.0).unwrap()).collect()
}

/// Tokeniser, embeddings and LM head.
pub(super) struct Toy(pub(super) Arc<ModelSpec>);

impl Toy {
    pub(super) fn new(blocks: usize) -> Self {
        Self(Arc::new(ModelSpec {
            id: MODEL.into(),
            family: "toy".into(),
            hidden: 1,
            vocab: VOCAB as usize,
            blocks,
            max_positions: None,
            eos: Vec::new(),
            bos: Some(TokenId(0)),
            dtype: "f32".into(),
        }))
    }
}

#[async_trait]
impl Tokenizer for Toy {
    async fn encode(&self, text: &str, _: bool) -> Result<Vec<TokenId>, PortError> {
        Ok(text.chars().map(|c| TokenId(u32::from(c) - FIRST)).collect())
    }

    fn decode(&self, tokens: &[TokenId], _: bool) -> Result<String, PortError> {
        Ok(characters(tokens))
    }

    fn call_form(&self) -> CallForm {
        CallForm::Tagged
    }

    fn chat_prompt(&self, chat: &Chat) -> Result<String, PortError> {
        Ok(chat.messages.iter().map(|m| m.content.as_str()).collect())
    }

    async fn constrain(&self, _: &Grammar, _: usize, _: TokenId) -> Result<Box<dyn Constraint>, PortError> {
        Err(PortError::new(FaultKind::Unsupported, "the toy knows no grammars"))
    }
}

#[async_trait]
impl LocalModel for Toy {
    fn spec(&self) -> Arc<ModelSpec> {
        self.0.clone()
    }

    async fn embed(&self, tokens: Vec<Vec<TokenId>>) -> Result<Hidden, PortError> {
        let row: Vec<f32> = tokens[0].iter().copied().map(embedded).collect();
        Hidden::from_f32((1, row.len(), 1), &row)
    }

    async fn logits(&self, hidden: Hidden, _: Want) -> Result<Logits, PortError> {
        let row = |state| LogitRow::Sparse(vec![(follower(state), 1.0)]);
        Ok(Logits { rows: hidden.to_f32().into_iter().map(row).collect() })
    }

    async fn normed(&self, hidden: Hidden) -> Result<Hidden, PortError> {
        Ok(hidden)
    }
}

/// What a conversation without any fault would have said, and would say next.
#[derive(Debug, Clone)]
pub(super) struct Truth {
    pub(super) tokens: Vec<TokenId>,
    cache: Cache,
    pub(super) next: TokenId,
}

impl Truth {
    pub(super) fn new(blocks: usize) -> Self {
        Self { tokens: Vec::new(), cache: Cache::new(BlockRange::first(blocks)), next: TokenId(0) }
    }

    pub(super) fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
        self.next = follower(self.cache.feed(embedded(token)));
    }

    /// The same conversation as it was `to` tokens long.
    pub(super) fn back(&self, to: usize) -> Self {
        let mut earlier = Self { tokens: Vec::new(), cache: self.cache.fresh(), next: TokenId(0) };
        self.tokens[..to].iter().for_each(|token| earlier.push(*token));
        earlier
    }
}
