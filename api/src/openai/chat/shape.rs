//! What goes out: a completion, its chunks, its counts.

use poem_openapi::Object;
use uuid::Uuid;

use super::scan::Call;
use crate::{
    openai::{likelihood::ChatLogprobs, shape::TokenUsage},
    route::ReplyRoute,
};

/// A reply in one piece.
#[derive(Debug, Object)]
#[oai(rename = "ChatCompletion")]
pub(crate) struct Completion {
    /// Names this reply.
    pub(super) id: String,
    /// Always `chat.completion`.
    pub(super) object: String,
    /// When it was begun, in seconds since 1970.
    pub(super) created: u64,
    /// Who answered.
    pub(super) model: String,
    /// The replies, as many as `n`.
    pub(super) choices: Vec<Choice>,
    /// Counts.
    pub(super) usage: TokenUsage,
    /// How the reply travelled, where other machines took part.
    #[oai(skip_serializing_if_is_none)]
    pub(super) route: Option<ReplyRoute>,
}

/// The reply.
#[derive(Debug, Object)]
#[oai(rename = "ChatChoice")]
pub(crate) struct Choice {
    /// Which of the replies, from 0 on.
    pub(super) index: u64,
    /// What was said.
    pub(super) message: Said,
    /// How probable its tokens were, where `logprobs` asked for it.
    #[oai(skip_serializing_if_is_none)]
    pub(super) logprobs: Option<ChatLogprobs>,
    /// `stop`: the model ended or a stop text appeared. `tool_calls`: the same, and functions are asked for. `length`: no
    /// more tokens were allowed or had room.
    pub(super) finish_reason: String,
}

/// What was said.
#[derive(Debug, Object)]
#[oai(rename = "ChatReply")]
pub(crate) struct Said {
    /// Always `assistant`.
    pub(super) role: String,
    /// The text; null where there is nothing but calls.
    #[oai(nullable)]
    pub(super) content: Option<String>,
    /// Functions that the model asks for.
    #[oai(skip_serializing_if_is_none)]
    pub(super) tool_calls: Option<Vec<AskedCall>>,
}

/// A function that the model asks for.
#[derive(Debug, Object)]
#[oai(rename = "ChatToolCall")]
pub(crate) struct AskedCall {
    /// Names this call, for the message that answers it.
    id: String,
    /// Always `function`.
    r#type: String,
    /// Which function, and its arguments.
    function: AskedFunction,
}

/// A function and its arguments.
#[derive(Debug, Object)]
#[oai(rename = "ChatToolCallFunction")]
pub(crate) struct AskedFunction {
    /// Its name.
    name: String,
    /// A JSON object.
    arguments: String,
}

impl From<Call> for AskedCall {
    fn from(call: Call) -> Self {
        let function = AskedFunction { name: call.name, arguments: call.arguments };
        Self { id: format!("call_{}", Uuid::new_v4().simple()), r#type: "function".to_owned(), function }
    }
}

/// A piece of a streamed reply.
#[derive(Debug, Object)]
#[oai(rename = "ChatChunk")]
pub(crate) struct Piece {
    /// Names this reply; the same in all its pieces.
    pub(super) id: String,
    /// Always `chat.completion.chunk`.
    pub(super) object: String,
    /// When the reply was begun, in seconds since 1970.
    pub(super) created: u64,
    /// Who answers.
    pub(super) model: String,
    /// A piece of one reply; none in the piece that carries the counts.
    pub(super) choices: Vec<PieceChoice>,
    /// Counts, in a last piece of their own where `stream_options.include_usage` asked for them.
    #[oai(skip_serializing_if_is_none)]
    pub(super) usage: Option<TokenUsage>,
    /// How the reply travels, where other machines take part: on its first piece of text, on the one after a server was
    /// lost, on one every quarter of a second, and on the piece that ends the text.
    #[oai(skip_serializing_if_is_none)]
    pub(super) route: Option<ReplyRoute>,
}

/// What a piece adds.
#[derive(Debug, Object)]
#[oai(rename = "ChatChunkChoice")]
pub(crate) struct PieceChoice {
    /// Which of the replies, from 0 on.
    pub(super) index: u64,
    /// What is added.
    pub(super) delta: Delta,
    /// How probable its tokens were, where `logprobs` asked for it.
    #[oai(skip_serializing_if_is_none)]
    pub(super) logprobs: Option<ChatLogprobs>,
    /// Set on the last piece of the text: `stop`, `tool_calls` or `length`.
    #[oai(nullable)]
    pub(super) finish_reason: Option<String>,
}

/// What is added.
#[derive(Debug, Default, Object)]
#[oai(rename = "ChatDelta")]
pub(crate) struct Delta {
    /// `assistant`, on the first piece.
    #[oai(skip_serializing_if_is_none)]
    pub(super) role: Option<String>,
    /// More text.
    #[oai(skip_serializing_if_is_none)]
    pub(super) content: Option<String>,
    /// Functions that the model asks for, each whole.
    #[oai(skip_serializing_if_is_none)]
    pub(super) tool_calls: Option<Vec<PieceCall>>,
}

/// A function that the model asks for, in a stream.
#[derive(Debug, Object)]
#[oai(rename = "ChatChunkToolCall")]
pub(crate) struct PieceCall {
    /// Which of the reply's calls, from 0 on.
    index: u64,
    /// Names this call, for the message that answers it.
    id: String,
    /// Always `function`.
    r#type: String,
    /// Which function, and its arguments.
    function: AskedFunction,
}

impl PieceCall {
    /// A call, which is the `nth` of its reply.
    pub(super) fn new(nth: usize, call: Call) -> Self {
        let AskedCall { id, r#type, function } = call.into();
        Self { index: nth as u64, id, r#type, function }
    }
}
