//! A chat, message by message.

use serde::{Deserialize, Serialize};

use super::{Tool, ToolCall};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The human.
    User,
    /// The model.
    Assistant,
    /// What a function returned that the model had asked for.
    Tool,
}

/// One message of a chat, as chat templates see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Functions that the assistant asked for.
    #[serde(default)]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a message of the role [`Role::Tool`] answers, and the function's name where it is known.
    #[serde(default)]
    pub answers: Option<Answered>,
}

/// The call that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Its id.
    pub id: String,
    /// The function's name.
    pub name: Option<String>,
}

impl Message {
    /// Words alone.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), answers: None }
    }
}

/// Everything that a chat template makes one text of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chat {
    /// What was said, oldest first.
    pub messages: Vec<Message>,
    /// Functions that the model may ask for.
    pub tools: Vec<Tool>,
}

impl From<Vec<Message>> for Chat {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, tools: Vec::new() }
    }
}
