//! Text to tokens and back.

use async_trait::async_trait;

use super::{Constraint, PortError};
use crate::model::{CallForm, Chat, Grammar, TokenId};

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

    /// `chat` as one text in the model's chat format, ending where the assistant's reply begins. Encode it with
    /// `add_special = false`. Tools that are offered MUST be in it, whether or not the model's template knows of any.
    /// `Unsupported` where the model has no chat template; `InvalidInput` where its template refuses the messages.
    fn chat_prompt(&self, chat: &Chat) -> Result<String, PortError>;

    /// How [`Tokenizer::chat_prompt`] tells the model to write calls of the tools it offers. What the form puts around
    /// a call MUST be text: `skip_special` does not leave it out.
    fn call_form(&self) -> CallForm;

    /// `grammar` over the first `vocab` tokens, of which `end` ends a text. `InvalidInput` where the grammar is wrong or
    /// too large, `Unsupported` where grammars are.
    async fn constrain(&self, grammar: &Grammar, vocab: usize, end: TokenId) -> Result<Box<dyn Constraint>, PortError>;
}
