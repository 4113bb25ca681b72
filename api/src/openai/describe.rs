//! What the descriptions of the operations under `/v1` share.

use poem_openapi::registry::{MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef};

use crate::{
    fault::ChatFaultBody,
    spec::meta::{header, inline, integer, json, list, one_of},
};

/// A response and the errors of an operation that computes.
pub(crate) fn errors(fine: MetaResponse) -> MetaResponses {
    let error = |status, description| json(status, description, ChatFaultBody::NAME);
    let mut busy = error(503, "The server is full, the model is not ready, or a block server is gone.");
    let mut many = error(429, "Too many sessions or requests.");
    for response in [&mut busy, &mut many] {
        response.headers.push(header("Retry-After", "Seconds after which to try again."));
    }
    let responses = vec![
        fine,
        error(400, "A member is missing, wrong or not supported, or the text does not fit."),
        error(404, "No such model, or the session is gone."),
        error(408, "The body came too slowly."),
        error(409, "The session was opened for another model."),
        error(413, "The body is longer than the server takes."),
        error(415, "The body is not application/json."),
        many,
        error(500, "A fault of the server; its log has the details."),
        error(501, "The model cannot do that, for instance has no chat format."),
        busy,
        error(504, "The reply took too long."),
    ];
    MetaResponses { responses }
}

/// Events as OpenAPI 3.0 can say them: a list of what each `data` holds.
pub(crate) fn stream_schema(event: MetaSchema) -> MetaSchemaRef {
    let description = "Each event's data is one of these; the last event's data is `[DONE]`.";
    inline(MetaSchema { format: Some("event-stream"), ..list(inline(event), description) })
}

/// A text, several, the tokens of one, or of several.
pub(crate) fn prompts(most: usize, description: &'static str) -> MetaSchema {
    let text = || inline(MetaSchema::new("string"));
    let token = || inline(integer(0, "A token."));
    let bounded = |schema| MetaSchema { min_items: Some(1), ..schema };
    let several = |schema| inline(MetaSchema { max_items: Some(most), ..bounded(schema) });
    let tokens = || bounded(list(token(), "Tokens of one text."));
    // A list of one shape is not told from another by its items: an empty one would be any of them, hence anyOf.
    let shapes = vec![
        text(),
        several(list(text(), "Several texts.")),
        inline(tokens()),
        several(list(inline(tokens()), "Tokens of several texts.")),
    ];
    let schema = one_of(shapes, description);
    MetaSchema { one_of: Vec::new(), any_of: schema.one_of, ..schema }
}
