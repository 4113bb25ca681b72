//! What a request adds to a conversation, worked out before anything is changed, and taken back where nothing came of it.

use super::{Prompt, ReplyError, core::Speaker};
use crate::{
    generation::Conversation,
    model::TokenId,
    ports::{BlockSession, PortError},
};

/// The tokens of a conversation as a reply will find them: the first `kept` of those that are there, then `added`.
pub(super) struct Continuation {
    kept: usize,
    added: Vec<TokenId>,
    text: Text,
}

/// What of the tokens before the reply belongs to its text.
enum Text {
    /// Whatever an earlier reply could not show yet.
    GoesOn,
    /// Nothing.
    Fresh,
    /// The BOS token that was fed since there was nothing else.
    WithBos,
}

impl Continuation {
    /// What `prompt` makes of `conversation`.
    pub(super) async fn of(
        speaker: &Speaker,
        conversation: &Conversation,
        prompt: &Prompt,
    ) -> Result<Self, ReplyError> {
        let tokens = &conversation.tokens;
        let tokenizer = &speaker.entry.tokenizer;
        let continuation = match prompt {
            Prompt::Nothing if !tokens.is_empty() => Self { kept: tokens.len(), added: Vec::new(), text: Text::GoesOn },
            Prompt::Nothing => {
                let bos = speaker.spec.bos.ok_or_else(|| {
                    PortError::invalid(format!("inputs are needed: model {} has no start token", speaker.spec.id))
                })?;
                Self { kept: 0, added: vec![bos], text: Text::WithBos }
            }
            Prompt::Text(text) => {
                let added = tokenizer.encode(text, tokens.is_empty()).await?;
                if text.is_empty() || added.is_empty() {
                    return Err(ReplyError::EmptyInput);
                }
                Self { kept: tokens.len(), added, text: Text::Fresh }
            }
            Prompt::Tokens(added) => {
                speaker.check_tokens("the prompt", added)?;
                if added.is_empty() {
                    return Err(ReplyError::EmptyInput);
                }
                Self { kept: tokens.len(), added: added.clone(), text: Text::Fresh }
            }
            Prompt::Chat(chat) => Self::chat(tokens, speaker.chat(chat, "").await?)?,
            Prompt::Begun(chat, begun) => Self::chat(tokens, speaker.chat(chat, begun).await?)?,
        };
        Ok(continuation)
    }

    /// `chat` in place of `tokens`, of which those stay that both have.
    fn chat(tokens: &[TokenId], mut chat: Vec<TokenId>) -> Result<Self, ReplyError> {
        if chat.is_empty() {
            return Err(ReplyError::EmptyInput);
        }
        let kept = common_prefix(tokens, &chat);
        Ok(Self { kept, added: chat.split_off(kept), text: Text::Fresh })
    }

    /// The whole prompt, where nothing is kept of what was there.
    pub(super) fn whole(&self) -> Option<&[TokenId]> {
        (self.kept == 0).then_some(&*self.added)
    }

    /// The same prompt, added to a conversation that begins as it does.
    pub(super) fn after(self, conversation: &Conversation) -> Self {
        let Self { kept: 0, mut added, text } = self else { return self };
        let kept = common_prefix(&conversation.tokens, &added);
        Self { kept, added: added.split_off(kept), text }
    }

    /// Tokens before the reply.
    pub(super) fn total(&self) -> usize {
        self.kept + self.added.len()
    }

    /// Tokens before the reply that count as its prefix; a BOS token that is shown counts as reply.
    pub(super) fn prefix(&self) -> usize {
        self.total() - usize::from(matches!(self.text, Text::WithBos))
    }

    /// Of these, how many the blocks need not compute again. The last one is always computed, for its output.
    pub(super) fn cached(&self, blocks: &dyn BlockSession) -> usize {
        blocks.position().min(self.kept).min(self.total() - 1)
    }

    /// Changes `conversation` accordingly and returns how many positions are in its cache.
    pub(super) async fn apply(self, conversation: &mut Conversation) -> Result<usize, PortError> {
        let cached = self.cached(&*conversation.blocks);
        if conversation.blocks.position() > cached {
            conversation.blocks.rewind(cached).await?;
        }
        conversation.tokens.truncate(self.kept);
        conversation.tokens.extend(self.added);
        match self.text {
            Text::GoesOn => {}
            Text::Fresh => conversation.unread = 0,
            Text::WithBos => conversation.unread = 1,
        }
        Ok(cached)
    }
}

/// How a conversation was before a request that only adds to it.
pub(super) struct Undo(Option<(usize, usize)>);

impl Undo {
    pub(super) fn of(conversation: &Conversation, change: &Continuation) -> Self {
        let appends = change.kept == conversation.tokens.len();
        Self(appends.then_some((conversation.tokens.len(), conversation.unread)))
    }

    /// Takes the request back, so that it can be sent again.
    pub(super) fn apply(&self, conversation: &mut Conversation) {
        if let Self(Some((tokens, unread))) = self {
            conversation.tokens.truncate(*tokens);
            conversation.unread = *unread;
        }
    }
}

/// How many tokens two texts share from their start on.
pub(super) fn common_prefix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
