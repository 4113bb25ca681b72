//! What the descriptions of the operations under `/v1` share.

use corolla_domain::generation::MAX_ALTERNATIVES;
use poem_openapi::registry::{MetaResponse, MetaSchema, MetaSchemaRef};

use super::{MAX_CHOICES, MAX_STOPS};
use crate::{
    fault::ChatFaultBody,
    spec::meta::{Member, above, boolean, header, inline, integer, json, list, number, object, one_of, or},
};

/// A response and the errors of an operation that computes.
pub(super) fn errors(fine: MetaResponse) -> Vec<MetaResponse> {
    let error = |status, description| json(status, description, ChatFaultBody::NAME);
    let mut busy = error(503, "The server is full, the model is not ready, or a block server is gone.");
    let mut many = error(429, "Too many sessions or requests.");
    for response in [&mut busy, &mut many] {
        response.headers.push(header("Retry-After", "Seconds after which to try again."));
    }
    vec![
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
    ]
}

/// Events as OpenAPI 3.0 can say them: a list of what each `data` holds.
pub(super) fn stream_schema(event: MetaSchema) -> MetaSchemaRef {
    let description = "Each event's data is one of these; the last event's data is `[DONE]`.";
    inline(MetaSchema { format: Some("event-stream"), ..list(inline(event), description) })
}

/// A text, several, the tokens of one, or of several.
pub(super) fn prompts(most: usize, description: &'static str) -> MetaSchema {
    let text = || inline(MetaSchema::new("string"));
    let token = || inline(MetaSchema { maximum: Some(f64::from(u32::MAX)), ..integer(0, "A token.") });
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

/// A number of alternatives.
pub(super) fn alternatives(description: &'static str) -> MetaSchema {
    MetaSchema { maximum: Some(MAX_ALTERNATIVES as f64), ..integer(0, description) }
}

/// Members that a chat and a completion have in common.
pub(super) fn shared_members() -> Vec<Member> {
    let string = || inline(MetaSchema { min_length: Some(1), ..MetaSchema::new("string") });
    let stops = MetaSchema { max_items: Some(MAX_STOPS), ..list(string(), "Several.") };
    let usage = boolean("Send the counts in a last chunk of their own.");
    vec![
        ("stream", or(boolean("Send the reply as server-sent events while it is written."), false)),
        ("stream_options", object("How to stream.", Vec::new(), [("include_usage", or(usage, false))])),
        (
            "n",
            or(MetaSchema { maximum: Some(MAX_CHOICES as f64), ..integer(1, "How many replies. 1 in a session.") }, 1),
        ),
        (
            "logit_bias",
            MetaSchema {
                additional_properties: Some(Box::new(inline(number(-100.0, 100.0, "Added to the score.")))),
                ..object("What to add to the scores of tokens, by the token's id.", Vec::new(), [])
            },
        ),
        (
            "temperature",
            or(number(0.0, 100.0, "Divides the scores before drawing; 0 takes the most probable token."), 1.0),
        ),
        ("top_p", above(0.0, 1.0, "Draw from the most probable tokens that reach this probability together. Above 0.")),
        ("top_k", integer(1, "Draw from this many of the most probable tokens.")),
        ("min_p", number(0.0, 1.0, "Draw from tokens at least this fraction as probable as the best one.")),
        (
            "seed",
            MetaSchema {
                description: Some("The same seed and the same request give the same tokens."),
                ..MetaSchema::new_with_format("integer", "int64")
            },
        ),
        (
            "stop",
            one_of(vec![string(), inline(stops)], "The reply ends before this text, or before the first of them."),
        ),
        (
            "presence_penalty",
            or(number(-100.0, 100.0, "Subtracted once from the score of each token already written."), 0.0),
        ),
        (
            "frequency_penalty",
            or(number(-100.0, 100.0, "Subtracted from the score of a token for each time it was written."), 0.0),
        ),
        (
            "repetition_penalty",
            or(number(0.01, 100.0, "Above 1, tokens that are already in the text become less probable."), 1.0),
        ),
    ]
}
