//! Turns a stream of tokens into a stream of text, character by whole character.

use crate::{
    model::TokenId,
    ports::{PortError, Tokenizer},
};

/// A UTF-8 character has at most 4 bytes, so at most 3 tokens in a row can be without a complete character.
const MAX_INCOMPLETE: usize = 3;

/// How many tokens before the reply are decoded along, so that decoders that treat the first token specially
/// (`SentencePiece` strips its space) do not take the reply's first token for it.
const CONTEXT: usize = 4;

/// Incremental decoder of one reply.
#[derive(Debug)]
pub struct Detokenizer {
    skip_special: bool,
    /// Tokens from the start of the decoding window on.
    window: Vec<TokenId>,
    /// How many of `window` are shown already.
    shown: usize,
}

impl Detokenizer {
    /// Continues after `before`, whose last `unread` tokens have not been shown yet.
    #[must_use]
    pub fn new(before: &[TokenId], unread: usize, skip_special: bool) -> Self {
        let read = before.len().saturating_sub(unread);
        let start = read.saturating_sub(CONTEXT);
        Self { skip_special, window: before[start..].to_vec(), shown: read - start }
    }

    /// Takes the next token and returns the text that is now complete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, tokenizer: &dyn Tokenizer, token: TokenId) -> Result<String, PortError> {
        self.window.push(token);
        self.advance(tokenizer)
    }

    /// Returns the text that is complete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn advance(&mut self, tokenizer: &dyn Tokenizer) -> Result<String, PortError> {
        let all = self.window.len();
        if !self.text_to(tokenizer, all)?.ends_with('\u{fffd}') {
            return self.show_to(tokenizer, all);
        }
        // What is older than the longest incomplete character will not become complete any more.
        let certain = all.saturating_sub(MAX_INCOMPLETE);
        if certain > self.shown { self.show_to(tokenizer, certain) } else { Ok(String::new()) }
    }

    /// Returns everything left, with U+FFFD for a character that never became complete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self, tokenizer: &dyn Tokenizer) -> Result<String, PortError> {
        self.show_to(tokenizer, self.window.len())
    }

    /// How many of the last tokens have not been shown.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.window.len() - self.shown
    }

    fn text_to(&self, tokenizer: &dyn Tokenizer, end: usize) -> Result<String, PortError> {
        tokenizer.decode(&self.window[..end], self.skip_special)
    }

    fn show_to(&mut self, tokenizer: &dyn Tokenizer, end: usize) -> Result<String, PortError> {
        if end == self.shown {
            return Ok(String::new());
        }
        let before = self.text_to(tokenizer, self.shown)?;
        let now = self.text_to(tokenizer, end)?;
        let common = now.char_indices().zip(before.chars()).take_while(|((_, a), b)| a == b).count();
        let text = now.chars().skip(common).collect();
        self.shown = end;
        let cut = end.saturating_sub(CONTEXT);
        self.window.drain(..cut);
        self.shown -= cut;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::MockTokenizer;

    /// One token a byte, as the smallest pieces of a byte-level vocabulary.
    fn bytes() -> MockTokenizer {
        let mut tokenizer = MockTokenizer::new();
        tokenizer.expect_decode().returning(|tokens, _| {
            let bytes: Vec<u8> = tokens.iter().map(|t| t.0 as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        tokenizer
    }

    fn pieces(text: &[u8]) -> Vec<String> {
        let tokenizer = bytes();
        let mut decoder = Detokenizer::new(&[], 0, false);
        let mut pieces: Vec<String> =
            text.iter().map(|b| decoder.push(&tokenizer, TokenId(u32::from(*b))).unwrap()).collect();
        pieces.push(decoder.finish(&tokenizer).unwrap());
        pieces
    }

    #[test]
    fn characters_come_out_whole() {
        assert_eq!(pieces("aé🌸".as_bytes()), ["a", "", "é", "", "", "", "🌸", ""]);
    }

    #[test]
    fn a_real_replacement_character_is_not_held_for_ever() {
        let text = "\u{fffd}\u{fffd}\u{fffd}x";
        let pieces = pieces(text.as_bytes());
        assert_eq!(pieces.concat(), text);
        assert_ne!(pieces[..7].concat(), "", "something must have come out by the seventh byte: {pieces:?}");
    }

    #[test]
    fn a_character_cut_short_ends_as_a_replacement() {
        assert_eq!(pieces(&"é🌸".as_bytes()[..5]).concat(), "é\u{fffd}");
    }

    #[test]
    fn a_character_begun_in_an_earlier_reply_is_finished_in_the_next() {
        let tokenizer = bytes();
        let flower: Vec<TokenId> = "🌸".bytes().map(|b| TokenId(u32::from(b))).collect();
        let mut first = Detokenizer::new(&[], 0, false);
        for token in &flower[..2] {
            assert_eq!(first.push(&tokenizer, *token).unwrap(), "");
        }
        let mut second = Detokenizer::new(&flower[..2], first.unread(), false);
        assert_eq!(second.push(&tokenizer, flower[2]).unwrap(), "");
        assert_eq!(second.push(&tokenizer, flower[3]).unwrap(), "🌸");
    }
}
