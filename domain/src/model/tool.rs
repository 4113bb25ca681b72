//! Functions that a model may ask its caller to run, and how it asks.

use serde::{Deserialize, Serialize};

/// A function that is offered to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, in words for the model.
    pub description: Option<String>,
    /// A JSON schema of its arguments, itself JSON; without one it takes none.
    pub parameters: Option<String>,
}

/// A model's request to run one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names this call, for the message that answers it.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments as JSON.
    pub arguments: String,
}

/// How calls stand in the text of a reply: a matter of what the model was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallForm {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one after the other (Hermes, Qwen).
    Tagged,
    /// The whole reply is `{"name": ..., "parameters": {...}}` (Llama 3.1).
    Bare,
    /// `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]` (Mistral).
    Listed,
}

impl CallForm {
    /// What stands before calls; nothing where they stand alone.
    #[must_use]
    pub fn opening(self) -> &'static str {
        match self {
            Self::Tagged => "<tool_call>",
            Self::Bare => "",
            Self::Listed => "[TOOL_CALLS]",
        }
    }

    /// What stands after a call.
    #[must_use]
    pub fn closing(self) -> &'static str {
        match self {
            Self::Tagged => "</tool_call>",
            Self::Bare | Self::Listed => "",
        }
    }

    /// The name under which the arguments stand.
    #[must_use]
    pub fn arguments(self) -> &'static str {
        match self {
            Self::Tagged | Self::Listed => "arguments",
            Self::Bare => "parameters",
        }
    }
}
