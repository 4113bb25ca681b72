//! What the text of a reply must be.

/// What the text of a reply must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// A JSON object.
    JsonObject,
    /// JSON that this schema, itself JSON, describes.
    JsonSchema(String),
}
