//! What the session service is asked and told.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::Owner;
use crate::{
    generation::{Sampling, StopRule},
    model::{Chat, Grammar, ModelId, TokenId},
    ports::Timestamp,
    routing::Patience,
};

/// What a reply continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Nothing new: go on from where the session is (or from the BOS token where there is nothing at all).
    Nothing,
    /// This text, appended to the session as it is.
    Text(String),
    /// These tokens, appended to the session as they are.
    Tokens(Vec<TokenId>),
    /// A whole chat. In a session the longest common prefix with what was said before is not computed again.
    Chat(Chat),
    /// A whole chat, and the beginning of the reply, which goes on after it.
    Begun(Chat, String),
}

/// How long a reply may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many tokens at most; 0 counts as 1.
    NewTokens(usize),
    /// So many tokens in all, with everything that came before.
    Total(usize),
    /// As long as there is room.
    Rest,
}

/// One request for a reply.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyRequest {
    /// Which model; `None` is the session's or the default one.
    pub model: Option<ModelId>,
    /// Which session to continue; `None` is a reply on its own.
    pub session: Option<Uuid>,
    /// On whose behalf, where that is known: without a session, what was computed for the same one is used again.
    pub owner: Option<Owner>,
    /// What to continue.
    pub prompt: Prompt,
    /// How long.
    pub length: Length,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// When to stop early, and how text is shown.
    pub stop: StopRule,
    /// What the text must be. It ends where the grammar does.
    pub grammar: Option<Grammar>,
}

/// Counts of one reply, final once its last chunk is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens before the reply: the session's and the prompt's.
    pub prompt_tokens: usize,
    /// Of these, how many were found in the KV cache and not computed again.
    pub cached_tokens: usize,
    /// Positions run through the blocks, prompt and reply.
    pub computed_tokens: usize,
    /// Tokens produced.
    pub new_tokens: usize,
}

/// Bounds on what clients can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sessions open at the same time.
    pub max_sessions: usize,
    /// Positions of a session whose opener does not say.
    pub default_length: usize,
    /// Positions that a session may ask for.
    pub max_length: usize,
    /// A session is forgotten this long after its last reply ended.
    pub idle: Duration,
    /// Conversations without a session that are kept, while nobody needs their room, for requests that begin as they do.
    pub prefixes: usize,
    /// Replies written at the same time.
    pub concurrent: usize,
    /// Requests that may wait for their turn.
    pub queue: usize,
    /// Positions run through the blocks at a time while a prompt is read.
    pub prefill_chunk: usize,
    /// How long a reply waits for servers that fail.
    pub patience: Patience,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 50,
            default_length: 1024,
            max_length: 8192,
            idle: Duration::from_secs(300),
            prefixes: 8,
            concurrent: 8,
            queue: 64,
            prefill_chunk: 128,
            patience: Patience::default(),
        }
    }
}

/// What the domain may not fetch itself: the time and chance.
#[derive(Clone)]
pub struct Ambient {
    /// The time now.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// 64 fresh random bits, unpredictable to clients.
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Whether a model can answer now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Which model.
    pub model: ModelId,
    /// `None` where it is ready, else what is missing, in words.
    pub missing: Option<String>,
    /// The blocks that nobody runs, where that is known.
    pub missing_blocks: Vec<usize>,
}
