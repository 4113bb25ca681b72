//! Text to tokens and back.

use async_trait::async_trait;

use super::{Constraint, PortError};
use crate::model::{Grammar, Message, TokenId};

/// Text to tokens and back, for one model.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Tokenizer: Send + Sync {
    /// Tokens of `text`. `add_special` adds what the model wants around a text (BOS for Llama, nothing for BLOOM).
    /// Text that spells a special token becomes that token. MUST NOT block the executor for long texts.
    async fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, PortError>;

    /// Text of `tokens`; bytes that are no UTF-8 come as U+FFFD. `skip_special` leaves special tokens out. Does not
    /// tidy spaces: the texts of two halves that split at a character boundary join to the text of the whole, for
    /// every split after the first token. `InvalidInput` for a token outside the vocabulary.
    fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String, PortError>;

    /// `messages` as one text in the model's chat format, ending where the assistant's reply begins. Encode it with
    /// `add_special = false`. `Unsupported` where the model has no chat template; `InvalidInput` where its template
    /// refuses the messages.
    fn chat_prompt(&self, messages: &[Message]) -> Result<String, PortError>;

    /// `grammar` over the first `vocab` tokens, of which `end` ends a text. `InvalidInput` where the grammar is wrong or
    /// too large, `Unsupported` where grammars are.
    async fn constrain(&self, grammar: &Grammar, vocab: usize, end: TokenId) -> Result<Box<dyn Constraint>, PortError>;
}
