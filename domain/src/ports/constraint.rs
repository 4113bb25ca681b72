//! A grammar on its way through a reply: which tokens may come next.

use async_trait::async_trait;

use super::PortError;
use crate::model::TokenId;

/// A set of tokens, one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSet(pub Vec<u32>);

impl TokenSet {
    /// Whether it has that token.
    #[must_use]
    pub fn has(&self, token: TokenId) -> bool {
        let (word, bit) = (token.0 as usize / 32, token.0 % 32);
        self.0.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }
}

impl FromIterator<TokenId> for TokenSet {
    fn from_iter<T: IntoIterator<Item = TokenId>>(tokens: T) -> Self {
        let mut words = Vec::new();
        for token in tokens {
            let word = token.0 as usize / 32;
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << (token.0 % 32);
        }
        Self(words)
    }
}

/// A grammar, and how far a reply has come in it.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Constraint: Send + Sync {
    /// Tokens that may come next; the one that ends the text among them where it may end here. Never none. May be
    /// dropped and asked again.
    async fn allowed(&self) -> Result<TokenSet, PortError>;

    /// Goes on by `token`, which is allowed.
    fn take(&mut self, token: TokenId) -> Result<(), PortError>;

    /// The same grammar from its start on.
    fn anew(&self) -> Box<dyn Constraint>;
}
