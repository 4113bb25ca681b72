//! What the text of a reply must be.

use super::Tool;

/// What the text of a reply must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// A JSON object.
    JsonObject,
    /// JSON that this schema, itself JSON, describes.
    JsonSchema(String),
    /// Calls of tools, in the form of the model's chat template, with arguments that their schemas describe.
    Calls(Calls),
}

/// Which calls a text may consist of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// What may be called.
    pub tools: Vec<Tool>,
    /// Whether there may be several, as far as the form has a way of writing them.
    pub several: bool,
    /// What the text may be besides.
    pub otherwise: Otherwise,
}

/// What a text may be where it need not be a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otherwise {
    /// Nothing else: there is a call.
    Never,
    /// Any words, also before a call.
    Words,
    /// JSON that this schema describes.
    Json(String),
}
