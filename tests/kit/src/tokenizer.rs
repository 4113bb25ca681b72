//! Contract of [`Tokenizer`]: one function per promise, each on a tokenizer of any kind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken promise is a failed test")]

use std::{pin::pin, task::Poll};

use corolla_domain::{
    model::TokenId,
    ports::{FaultKind, Tokenizer},
};

/// What the suite must know about a vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The first id that stands for nothing.
    pub vocab: u32,
    /// A special token: its text and id.
    pub special: Option<(&'static str, TokenId)>,
    /// Whether the model's format puts a space before every text, as SentencePiece does.
    pub space_first: bool,
}

/// Texts that tokenizers have stumbled over.
pub const TEXTS: &[&str] = &[
    "a",
    " ",
    "Hello, world!",
    "  two  spaces  inside and around  ",
    "tabs\tand\r\nlines\n\n\nand more\n",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "e\u{301} is not é",
    "👩‍👩‍👧‍👦 family 🇨🇿 flag 👍🏽",
    "汉字とかな交じり文 한국어",
    "مرحبا بالعالم שלום",
    "1234567890 3.14159 ½ ²",
    "fn main() {\n    println!(\"{}\", x[0] != 7); // done\n}\n",
    "it's we'll I'M don't",
    "\u{feff}\u{200b}\u{a0}\u{3000}\0\u{7f}\u{fffd}",
    "do n't tidy , this !",
];

/// Every promise of the port that holds for any model.
pub async fn all(tokenizer: &dyn Tokenizer, facts: Facts) {
    texts_round_trip(tokenizer, facts).await;
    long_texts_round_trip(tokenizer, facts).await;
    long_texts_leave_the_executor_free(tokenizer).await;
    halves_join_to_the_whole(tokenizer).await;
    streamed_text_is_the_text_at_once(tokenizer).await;
    half_a_character_is_replaced(tokenizer).await;
    ids_outside_the_vocabulary_are_invalid(tokenizer, facts);
    special_tokens_stand_around_the_text(tokenizer).await;
    special_tokens_are_found_shown_and_skipped(tokenizer, facts).await;
    marks_of_calls_are_text(tokenizer).await;
    a_dropped_encoding_harms_nothing(tokenizer).await;
}

/// The text of the tokens of a text is the text.
pub async fn texts_round_trip(tokenizer: &dyn Tokenizer, facts: Facts) {
    assert_eq!(tokenizer.encode("", false).await.unwrap(), [], "tokens of no text");
    assert_eq!(tokenizer.decode(&[], false).unwrap(), "", "text of no tokens");
    for text in TEXTS {
        round_trip(tokenizer, facts, text).await;
    }
}

/// So it is for texts of 100 KB, varied and uniform.
pub async fn long_texts_round_trip(tokenizer: &dyn Tokenizer, facts: Facts) {
    for unit in [&TEXTS.concat(), "a", " ", "\n", "é", "👍"] {
        round_trip(tokenizer, facts, &unit.repeat(100_000 / unit.len())).await;
    }
}

/// A long text is encoded elsewhere: the first look at the future finds it busy, unless this thread had to wait for its turn
/// meanwhile, which does not happen each time.
pub async fn long_texts_leave_the_executor_free(tokenizer: &dyn Tokenizer) {
    let text = TEXTS.concat().repeat(100);
    let mut elsewhere = false;
    for _ in 0..50 {
        let mut encoding = pin!(tokenizer.encode(&text, false));
        match std::future::poll_fn(|cx| Poll::Ready(encoding.as_mut().poll(cx))).await {
            Poll::Ready(tokens) => assert!(!tokens.unwrap().is_empty()),
            Poll::Pending => {
                assert!(!encoding.await.unwrap().is_empty());
                elsewhere = true;
                break;
            }
        }
    }
    assert!(elsewhere, "{} bytes were encoded on the executor", text.len());
}

/// Wherever a text is split between characters after its first token, the texts of both halves join to it.
pub async fn halves_join_to_the_whole(tokenizer: &dyn Tokenizer) {
    for text in TEXTS {
        let tokens = tokenizer.encode(text, true).await.unwrap();
        for skip in [false, true] {
            let whole = tokenizer.decode(&tokens, skip).unwrap();
            for (left, right) in (1..tokens.len()).map(|at| tokens.split_at(at)) {
                let (left, right) = (tokenizer.decode(left, skip).unwrap(), tokenizer.decode(right, skip).unwrap());
                if !left.ends_with('\u{fffd}') {
                    assert_eq!(format!("{left}{right}"), whole, "halves of {text:?}, skip_special {skip}");
                }
            }
        }
    }
}

/// Text released token by token, as soon as its last character is complete, is the text decoded at once.
pub async fn streamed_text_is_the_text_at_once(tokenizer: &dyn Tokenizer) {
    for text in TEXTS {
        let tokens = tokenizer.encode(text, false).await.unwrap();
        let (mut streamed, mut pending) = (String::new(), Vec::new());
        for token in &tokens {
            pending.push(*token);
            let piece = tokenizer.decode(&pending, false).unwrap();
            if !piece.ends_with('\u{fffd}') {
                streamed.push_str(&piece);
                pending.clear();
            }
        }
        streamed.push_str(&tokenizer.decode(&pending, false).unwrap());
        assert_eq!(streamed, tokenizer.decode(&tokens, false).unwrap(), "{text:?} in a stream");
    }
}

/// Where a character takes several tokens, some of them alone are U+FFFD, and what stands before them stays.
pub async fn half_a_character_is_replaced(tokenizer: &dyn Tokenizer) {
    let text = "x𓂀";
    let tokens = tokenizer.encode(text, false).await.unwrap();
    let cut = tokenizer.decode(&tokens[..tokens.len() - 1], false).unwrap();
    if tokens.len() > 2 {
        assert!(cut.trim_start().starts_with('x') && cut.ends_with('\u{fffd}'), "{cut:?} is no cut {text:?}");
    }
}

/// An id that stands for nothing is refused, not skipped.
pub fn ids_outside_the_vocabulary_are_invalid(tokenizer: &dyn Tokenizer, facts: Facts) {
    for id in [facts.vocab, facts.vocab + 1000, u32::MAX] {
        let refused = tokenizer.decode(&[TokenId(0), TokenId(id)], true).expect_err("an id outside the vocabulary");
        assert_eq!(refused.kind(), FaultKind::InvalidInput, "{refused}");
        assert!(refused.context().contains(&id.to_string()), "`{refused}` should name {id}");
    }
}

/// `add_special` only adds around a text.
pub async fn special_tokens_stand_around_the_text(tokenizer: &dyn Tokenizer) {
    let around = tokenizer.encode("", true).await.unwrap().len();
    for text in TEXTS {
        let plain = tokenizer.encode(text, false).await.unwrap();
        let full = tokenizer.encode(text, true).await.unwrap();
        assert_eq!(full.len(), plain.len() + around, "tokens around {text:?}");
        assert!(full.windows(plain.len()).any(|part| part == plain), "{text:?} changed within its special tokens");
    }
}

/// Text that spells a special token becomes that token; `skip_special` leaves it out.
pub async fn special_tokens_are_found_shown_and_skipped(tokenizer: &dyn Tokenizer, facts: Facts) {
    let Some((text, id)) = facts.special else {
        return;
    };
    assert_eq!(tokenizer.encode(text, false).await.unwrap(), [id], "{text} alone");
    let tokens = tokenizer.encode(&format!("one{text}two"), false).await.unwrap();
    assert_eq!(tokens.iter().filter(|token| **token == id).count(), 1, "{text} between words: {tokens:?}");
    let space = if facts.space_first { " " } else { "" };
    let (shown, skipped) = (tokenizer.decode(&tokens, false).unwrap(), tokenizer.decode(&tokens, true).unwrap());
    assert_eq!(shown, format!("{space}one{text}{space}two"));
    assert_eq!(skipped, format!("{space}one{space}two"));
}

/// What stands around a call of a tool is not left out with special tokens.
pub async fn marks_of_calls_are_text(tokenizer: &dyn Tokenizer) {
    let form = tokenizer.call_form();
    for mark in [form.opening(), form.closing()] {
        let tokens = tokenizer.encode(mark, false).await.unwrap();
        assert_eq!(tokenizer.decode(&tokens, true).unwrap().trim_start(), mark);
    }
}

/// Dropping an encoding under way leaves the tokenizer as it was.
pub async fn a_dropped_encoding_harms_nothing(tokenizer: &dyn Tokenizer) {
    let before = tokenizer.encode("still here", false).await.unwrap();
    let long = TEXTS.concat().repeat(20);
    for _ in 0..20 {
        let mut encoding = pin!(tokenizer.encode(&long, false));
        let _ = std::future::poll_fn(|cx| Poll::Ready(encoding.as_mut().poll(cx))).await;
    }
    assert_eq!(tokenizer.encode("still here", false).await.unwrap(), before);
    assert!(!tokenizer.encode(&long, false).await.unwrap().is_empty());
}

async fn round_trip(tokenizer: &dyn Tokenizer, facts: Facts, text: &str) {
    let tokens = tokenizer.encode(text, false).await.unwrap();
    let back = tokenizer.decode(&tokens, false).unwrap();
    let wanted = if facts.space_first { format!(" {text}") } else { text.to_owned() };
    let start: String = text.chars().take(40).collect();
    assert!(back == wanted, "{start:?}... ({} bytes) comes back as {} bytes", text.len(), back.len());
}
