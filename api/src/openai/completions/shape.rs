//! What goes out: texts, whole or in pieces.

use poem_openapi::Object;

use super::work::Piece;
use crate::{
    openai::{likelihood::CompletionLogprobs, shape::TokenUsage},
    route::ReplyRoute,
};

/// Texts in one piece, or a piece of one.
#[derive(Debug, Default, Object)]
#[oai(rename = "Completion")]
pub(crate) struct Completion {
    /// Names this reply; the same in all its pieces.
    pub(super) id: String,
    /// Always `text_completion`.
    pub(super) object: String,
    /// When it was begun, in seconds since 1970.
    pub(super) created: u64,
    /// Who wrote.
    pub(super) model: String,
    /// The texts, `n` for each prompt, in the order of the prompts. In a stream one, or none beside the counts.
    pub(super) choices: Vec<Choice>,
    /// Counts; in a stream in a last piece of their own, where `stream_options.include_usage` asked for them.
    #[oai(skip_serializing_if_is_none)]
    pub(super) usage: Option<TokenUsage>,
    /// How the last text travelled, where other machines took part.
    #[oai(skip_serializing_if_is_none)]
    pub(super) route: Option<ReplyRoute>,
}

/// A text.
#[derive(Debug, Default, Object)]
#[oai(rename = "CompletionChoice")]
pub(crate) struct Choice {
    /// Which of the texts, from 0 on.
    pub(super) index: u64,
    /// The text.
    pub(super) text: String,
    /// How probable its tokens were, where `logprobs` asked for it.
    #[oai(skip_serializing_if_is_none)]
    pub(super) logprobs: Option<CompletionLogprobs>,
    /// `stop`: the model ended or a stop text appeared. `length`: no more tokens were allowed or had room. null in a
    /// stream before the last piece.
    #[oai(nullable)]
    pub(super) finish_reason: Option<String>,
}

impl Choice {
    /// Adds what comes next.
    pub(super) fn add(&mut self, piece: Piece) {
        self.text += &piece.text;
        if let Some(more) = piece.logprobs {
            let all = self.logprobs.get_or_insert_default();
            all.tokens.extend(more.tokens);
            all.token_logprobs.extend(more.token_logprobs);
            all.top_logprobs.extend(more.top_logprobs);
            all.text_offset.extend(more.text_offset);
        }
        self.finish_reason = piece.finish.map(str::to_owned);
    }
}
