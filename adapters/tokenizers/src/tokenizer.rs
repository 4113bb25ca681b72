//! The port on a loaded vocabulary: short texts at once, long ones on a blocking thread.

use std::sync::Arc;

use async_trait::async_trait;
use corolla_domain::{
    model::{Message, TokenId},
    ports::{PortError, Tokenizer},
};
use tokio::sync::Semaphore;

use crate::{chat::Chat, pieces::Pieces};

/// Texts up to so many bytes are encoded on the executor: below its budget of 500 µs.
const SHORT: usize = 512;

/// Long texts encoded at the same time; others wait. Encoding takes about 100 bytes of memory a byte of text.
const LONG_AT_ONCE: usize = 2;

/// Text to tokens and back, for one model.
#[derive(Clone)]
pub struct HfTokenizer {
    vocabulary: Arc<Vocabulary>,
    chat: Arc<Chat>,
    long: Arc<Semaphore>,
}

/// Everything about the words.
pub(crate) struct Vocabulary {
    /// Finds tokens. Never adds any around a text, cuts or pads.
    pub(crate) encoder: tokenizers::Tokenizer,
    /// What each token stands for.
    pub(crate) pieces: Pieces,
    /// What stands before a text with `add_special`.
    pub(crate) before: Vec<u32>,
    /// What stands after a text with `add_special`.
    pub(crate) after: Vec<u32>,
}

impl Vocabulary {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, PortError> {
        let found = self
            .encoder
            .encode_fast(text, false)
            .map_err(|e| PortError::internal(format!("the text cannot be encoded: {e}")))?;
        let (before, after): (&[u32], &[u32]) = if add_special { (&self.before, &self.after) } else { (&[], &[]) };
        Ok(before.iter().chain(found.get_ids()).chain(after).copied().map(TokenId).collect())
    }
}

impl HfTokenizer {
    pub(crate) fn new(vocabulary: Vocabulary, chat: Chat) -> Self {
        let long = Arc::new(Semaphore::new(LONG_AT_ONCE));
        Self { vocabulary: Arc::new(vocabulary), chat: Arc::new(chat), long }
    }
}

#[async_trait]
impl Tokenizer for HfTokenizer {
    async fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, PortError> {
        if text.len() <= SHORT {
            return self.vocabulary.encode(text, add_special);
        }
        let stopped = |_| PortError::internal("the tokenizer's threads are stopped");
        let place = Arc::clone(&self.long).acquire_owned().await.map_err(stopped)?;
        let (vocabulary, text) = (Arc::clone(&self.vocabulary), text.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let _place = place; // held until the work is done, even where the caller has gone
            vocabulary.encode(&text, add_special)
        });
        work.await.map_err(|e| PortError::internal("encoding a long text broke off").with_source(e))?
    }

    fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String, PortError> {
        self.vocabulary.pieces.decode(tokens, skip_special)
    }

    fn chat_prompt(&self, messages: &[Message]) -> Result<String, PortError> {
        self.chat.prompt(messages)
    }
}

impl std::fmt::Debug for HfTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HfTokenizer").finish_non_exhaustive()
    }
}
