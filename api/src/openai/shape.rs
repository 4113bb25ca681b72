//! What the replies under `/v1` share: their stamp, why they ended, counts.

use std::time::{SystemTime, UNIX_EPOCH};

use corolla_domain::{generation::FinishReason, model::ModelId, session::Usage};
use poem_openapi::Object;
use uuid::Uuid;

/// What all parts of one reply carry.
#[derive(Debug, Clone)]
pub(super) struct Stamp {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Stamp {
    pub(super) fn new(kind: &str, model: &ModelId) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { id: format!("{kind}-{}", Uuid::new_v4().simple()), created, model: model.to_string() }
    }
}

/// Why a reply ended, in OpenAI's words.
pub(crate) fn finish_reason(finish: &FinishReason) -> &'static str {
    match finish {
        FinishReason::EndOfText(_) | FinishReason::StopSequence(_) => "stop",
        FinishReason::Length | FinishReason::SessionFull { .. } => "length",
    }
}

/// Counts of one reply.
#[derive(Debug, Clone, Copy, Default, Object)]
#[oai(rename = "ChatUsage")]
pub(crate) struct TokenUsage {
    /// Tokens before the reply.
    pub(crate) prompt_tokens: u64,
    /// Tokens of the reply, or of all replies to the prompt.
    pub(crate) completion_tokens: u64,
    /// Both.
    pub(crate) total_tokens: u64,
    /// More on the prompt.
    pub(crate) prompt_tokens_details: PromptDetails,
}

/// More on the prompt.
#[derive(Debug, Clone, Copy, Default, Object)]
#[oai(rename = "ChatPromptDetails")]
pub(crate) struct PromptDetails {
    /// Tokens that were in a cache and not computed again.
    pub(crate) cached_tokens: u64,
}

impl TokenUsage {
    /// Adds the counts of another prompt.
    pub(crate) fn add(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.total_tokens += other.total_tokens;
        self.prompt_tokens_details.cached_tokens += other.prompt_tokens_details.cached_tokens;
    }
}

impl From<Usage> for TokenUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens as u64,
            completion_tokens: usage.new_tokens as u64,
            total_tokens: (usage.prompt_tokens + usage.new_tokens) as u64,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens as u64 },
        }
    }
}
