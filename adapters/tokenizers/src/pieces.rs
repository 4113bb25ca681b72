//! What each token stands for, in bytes. Decoding joins bytes, so that halves of a text join to the whole: no space is
//! stripped, and a broken character spoils no neighbour.

use corolla_domain::{model::TokenId, ports::PortError};

/// Ids beyond this are taken for damage rather than for a vocabulary.
pub(crate) const MAX_ID: usize = 1 << 24;

/// The bytes of every token of a vocabulary.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    table: Vec<Option<Piece>>,
}

#[derive(Debug)]
struct Piece {
    bytes: Box<[u8]>,
    special: bool,
}

impl Pieces {
    /// Adds a token. `None` where the id is beyond [`MAX_ID`].
    pub(crate) fn insert(&mut self, id: u32, bytes: Vec<u8>, special: bool) -> Option<()> {
        let index = usize::try_from(id).ok().filter(|index| *index < MAX_ID)?;
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        self.table[index] = Some(Piece { bytes: bytes.into(), special });
        Some(())
    }

    /// Makes the token of that text, where there is one, a part of texts like any other.
    pub(crate) fn show(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        for piece in self.table.iter_mut().flatten().filter(|piece| *piece.bytes == *text.as_bytes()) {
            piece.special = false;
        }
    }

    /// The bytes of a token, and whether it is a special one.
    pub(crate) fn bytes(&self, token: TokenId) -> Option<(&[u8], bool)> {
        self.get(token).map(|piece| (&*piece.bytes, piece.special))
    }

    /// The text of a token as far as it is one, for chat templates.
    pub(crate) fn text(&self, id: u32) -> Option<String> {
        let piece = self.get(TokenId(id))?;
        Some(String::from_utf8_lossy(&piece.bytes).into_owned())
    }

    pub(crate) fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String, PortError> {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for token in tokens {
            let Some(piece) = self.get(*token) else {
                return Err(PortError::invalid(format!("token {token} is not in the model's vocabulary")));
            };
            if !(skip_special && piece.special) {
                bytes.extend_from_slice(&piece.bytes);
            }
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
        })
    }

    fn get(&self, token: TokenId) -> Option<&Piece> {
        self.table.get(usize::try_from(token.0).ok()?)?.as_ref()
    }
}

/// Bytes of a token in a byte-level vocabulary, where each byte is written as one printable character. A token with any
/// other character in it stands for itself.
///
/// Source: `bytes_to_unicode` of GPT-2: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on.
pub(crate) fn byte_level(token: &str) -> Vec<u8> {
    let byte = |c: char| {
        let code = u32::from(c);
        let byte = match code {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
            0x100..=0x120 => code - 0x100,
            0x121..=0x142 => code - 0x121 + 0x7f,
            0x143 => 0xad,
            _ => return None,
        };
        u8::try_from(byte).ok()
    };
    token.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte of a token written `<0xE2>`.
pub(crate) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let two_digits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    two_digits.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen: Vec<u8> = (0x21..=0x143)
            .filter(|code| !matches!(code, 0x7f..=0xa0 | 0xad))
            .filter_map(char::from_u32)
            .flat_map(|c| byte_level(&c.to_string()))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level("Ġa"), b" a");
        assert_eq!(byte_level("two words Ġ"), "two words Ġ".as_bytes());
    }

    #[test]
    fn byte_tokens_are_strict() {
        assert_eq!(byte_token("<0xE2>"), Some(0xe2));
        for other in ["<0x+2>", "<0xE>", "0xE2", "<0xE2", "<0xéé>"] {
            assert_eq!(byte_token(other), None, "{other}");
        }
    }

    #[test]
    fn a_broken_character_spoils_no_neighbour() {
        let mut pieces = Pieces::default();
        for (id, byte) in "€".bytes().enumerate() {
            pieces.insert(id as u32, vec![byte], false).unwrap();
        }
        let ids = [0, 1, 2, 0, 1].map(TokenId);
        assert_eq!(pieces.decode(&ids, false).unwrap(), "€\u{fffd}");
        assert_eq!(pieces.insert(u32::MAX, Vec::new(), false), None);
    }
}
