//! The port on a loaded vocabulary: short texts at once, long ones and grammars on a blocking thread.

use std::sync::Arc;

use async_trait::async_trait;
use corolla_domain::{
    model::{CallForm, Chat, Grammar, TokenId},
    ports::{Constraint, PortError, Tokenizer},
};
use tokio::sync::{OnceCell, Semaphore};

use crate::{chat::Template, grammar::Grammars, pieces::Pieces};

/// Texts up to so many bytes are encoded on the executor: below its budget of 500 µs.
const SHORT: usize = 512;

/// Long texts encoded at the same time; others wait. Encoding takes about 100 bytes of memory a byte of text.
const LONG_AT_ONCE: usize = 2;

/// Text to tokens and back, for one model.
#[derive(Clone)]
pub struct HfTokenizer {
    vocabulary: Arc<Vocabulary>,
    template: Arc<Template>,
    long: Arc<Semaphore>,
    /// Made when the first grammar is asked for.
    grammars: Arc<OnceCell<Grammars>>,
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
    pub(crate) fn new(mut vocabulary: Vocabulary, template: Template) -> Self {
        let long = Arc::new(Semaphore::new(LONG_AT_ONCE));
        for mark in [template.form().opening(), template.form().closing()] {
            vocabulary.pieces.show(mark);
        }
        Self { vocabulary: Arc::new(vocabulary), template: Arc::new(template), long, grammars: Arc::default() }
    }
}

#[async_trait]
impl Tokenizer for HfTokenizer {
    async fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, PortError> {
        if text.len() <= SHORT {
            return self.vocabulary.encode(text, add_special);
        }
        let (vocabulary, text) = (Arc::clone(&self.vocabulary), text.to_owned());
        apart(&self.long, "encoding a long text", move || vocabulary.encode(&text, add_special)).await
    }

    fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String, PortError> {
        self.vocabulary.pieces.decode(tokens, skip_special)
    }

    fn chat_prompt(&self, chat: &Chat) -> Result<String, PortError> {
        self.template.prompt(chat)
    }

    fn call_form(&self) -> CallForm {
        self.template.form()
    }

    async fn constrain(&self, grammar: &Grammar, vocab: usize, end: TokenId) -> Result<Box<dyn Constraint>, PortError> {
        let make = || {
            let vocabulary = Arc::clone(&self.vocabulary);
            apart(&self.long, "reading the vocabulary", move || Grammars::new(&vocabulary.pieces, vocab, end))
        };
        self.grammars.get_or_try_init(make).await?;
        let (grammars, grammar, form) = (Arc::clone(&self.grammars), grammar.clone(), self.call_form());
        let compile = move || match grammars.get() {
            Some(grammars) => grammars.compile(&grammar, form),
            None => Err(PortError::internal("the vocabulary was not read")),
        };
        Ok(Box::new(apart(&self.long, "compiling a grammar", compile).await?))
    }
}

/// Runs `work` on a thread for work that takes long, once `long` has a place.
async fn apart<T: Send + 'static>(
    long: &Arc<Semaphore>,
    what: &str,
    work: impl FnOnce() -> Result<T, PortError> + Send + 'static,
) -> Result<T, PortError> {
    let stopped = |_| PortError::internal("the tokenizer's threads are stopped");
    let place = Arc::clone(long).acquire_owned().await.map_err(stopped)?;
    let work = tokio::task::spawn_blocking(move || {
        let _place = place; // held until the work is done, even where the caller has gone
        work()
    });
    work.await.map_err(|e| PortError::internal(format!("{what} broke off")).with_source(e))?
}

impl std::fmt::Debug for HfTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HfTokenizer").finish_non_exhaustive()
    }
}
