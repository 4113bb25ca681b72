//! SentencePiece BPE (Llama 1 and 2, Mistral, ...) from the metadata of a GGUF file: model `llama`.
//!
//! Such a vocabulary has scores instead of merges: of all neighbours that join to a piece, the pair with the highest
//! score joins first. Every split of a piece into two pieces is therefore a merge, ranked by the score of the whole.

use std::cmp::Ordering;

use corolla_domain::ports::PortError;
use corolla_gguf::{Gguf, Strings};
use tokenizers::{
    Tokenizer,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{NormalizerWrapper, Prepend, Replace, Sequence},
};

use crate::gguf::TokenKind;

/// How a space is written in a piece.
pub(crate) const SPACE: &str = "\u{2581}";

/// Longer pieces are not taken apart: the work grows with the square of the length. SentencePiece itself makes none
/// longer than 16 characters unless told to.
const MAX_PIECE: usize = 512;

/// The encoder of a vocabulary with scores.
pub(crate) fn encoder(
    gguf: &Gguf,
    tokens: &Strings,
    kinds: &[TokenKind],
    vocab: Vocab,
) -> Result<Tokenizer, PortError> {
    let scores = gguf.floats("tokenizer.ggml.scores").filter(|scores| scores.len() == tokens.len());
    let Some(scores) = scores else {
        return Err(PortError::invalid("tokenizer.ggml.scores does not give each token a score"));
    };
    let merges = merges(tokens, kinds, &scores, &vocab);
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    let unknown = gguf.u64("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    if let Some(unknown) = usize::try_from(unknown).ok().and_then(|id| tokens.get(id)) {
        builder = builder.unk_token(unknown.to_owned());
    }
    let model = builder.build().map_err(|e| PortError::invalid(format!("the vocabulary contradicts itself: {e}")))?;
    let mut encoder = Tokenizer::new(model);
    let mut steps: Vec<NormalizerWrapper> = Vec::with_capacity(2);
    if gguf.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
        steps.push(Prepend::new(SPACE.to_owned()).into());
    }
    let spaces = Replace::new(" ", SPACE).map_err(|e| PortError::internal(format!("replacing spaces: {e}")))?;
    steps.push(spaces.into());
    encoder
        .with_normalizer(Some(Sequence::new(steps)))
        .map_err(|e| PortError::internal(format!("the normalizer is refused: {e}")))?;
    Ok(encoder)
}

fn merges(tokens: &Strings, kinds: &[TokenKind], scores: &[f32], vocab: &Vocab) -> Merges {
    let mut ranked = Vec::new();
    let pieces = tokens
        .iter()
        .zip(kinds)
        .zip(scores)
        .filter(|((piece, kind), _)| **kind == TokenKind::Normal && piece.len() <= MAX_PIECE);
    for ((piece, _), score) in pieces {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (vocab.get(left), vocab.get(right)) {
                ranked.push((*score, (*l, *r), (left, right)));
            }
        }
    }
    ranked.sort_by(|(score_a, ids_a, _), (score_b, ids_b, _)| {
        score_b.partial_cmp(score_a).unwrap_or(Ordering::Equal).then(ids_a.cmp(ids_b))
    });
    ranked.into_iter().map(|(_, _, (left, right))| (left.to_owned(), right.to_owned())).collect()
}
