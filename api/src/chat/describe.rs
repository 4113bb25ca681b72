//! What the description says of `/v1/chat/completions`.

use poem::http::Method;
use poem_openapi::{
    Tags as _,
    registry::{MetaApi, MetaMediaType, MetaOperation, MetaPath, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};

use super::shape::{Completion, Piece};
use crate::{
    fault::ChatFaultBody,
    spec::{
        Tag,
        meta::{Member, body, boolean, header, inline, integer, json, list, named, number, object, one_of, or, text},
    },
};

pub(super) const PATH: &str = "/v1/chat/completions";

const REQUEST: &str = "ChatRequest";
const MESSAGE: &str = "ChatMessage";
const PART: &str = "ChatTextPart";

/// Members of OpenAI's requests that change what a reply is, and that this server does not honour yet.
pub(super) const UNSUPPORTED: [&str; 12] = [
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "logprobs",
    "top_logprobs",
    "n",
    "logit_bias",
    "modalities",
    "audio",
    "prediction",
];

/// Members of a request that are read.
pub(super) fn members() -> Vec<Member> {
    let string = || inline(MetaSchema::new("string"));
    let stops = MetaSchema { max_items: Some(super::request::MAX_STOPS), ..list(string(), "Several.") };
    let usage = boolean("Send the counts in a last chunk of their own.");
    vec![
        ("model", text("Which model; the session's, or the default one, where it is left out.")),
        ("messages", MetaSchema { min_items: Some(1), ..list(named(MESSAGE), "The chat so far, oldest first.") }),
        ("stream", or(boolean("Send the reply as server-sent events while it is written."), false)),
        ("stream_options", object("How to stream.", Vec::new(), [("include_usage", or(usage, false))])),
        (
            "max_completion_tokens",
            integer(0, "New tokens at most; 0 counts as 1. As many as there is room for if left out."),
        ),
        ("max_tokens", integer(0, "The older name of max_completion_tokens.")),
        (
            "temperature",
            or(number(0.0, 100.0, "Divides the scores before drawing; 0 takes the most probable token."), 1.0),
        ),
        (
            "top_p",
            number(0.0, 1.0, "Draw from the most probable tokens that reach this probability together. Above 0."),
        ),
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
        (
            "session_id",
            text(
                "A session of open_inference_session. What the chat has in common with what the session holds is not \
                 computed again. An extension.",
            ),
        ),
    ]
}

pub(super) fn register(registry: &mut Registry) {
    Tag::Chat.register(registry);
    Completion::register(registry);
    Piece::register(registry);
    ChatFaultBody::register(registry);
    let roles = ["system", "developer", "user", "assistant"].map(Into::into).to_vec();
    let role = MetaSchema { enum_items: roles, ..text("Who speaks. developer is the same as system.") };
    let parts = list(named(PART), "Texts that are put together.");
    let words = MetaSchema { nullable: true, ..text("The text; null is fine for the assistant.") };
    let content = one_of(vec![inline(words), inline(parts)], "What is said.");
    let message = object("One message of a chat.", vec!["role"], [("role", role), ("content", content)]);
    registry.schemas.insert(MESSAGE.to_owned(), message);
    let kind = MetaSchema { enum_items: vec!["text".into()], ..text("Always `text`.") };
    let part = object("A part of a message.", vec!["type", "text"], [("type", kind), ("text", text("The text."))]);
    registry.schemas.insert(PART.to_owned(), part);
    registry.schemas.insert(REQUEST.to_owned(), object("A chat, and how to continue it.", vec!["messages"], members()));
}

pub(super) fn api() -> MetaApi {
    let mut fine =
        json(200, "The reply: in one piece, or as events where `stream` is true.", Completion::name().as_ref());
    fine.content.push(MetaMediaType { content_type: "text/event-stream", schema: stream_schema() });
    fine.headers.push(header(
        "Server-Timing",
        "Where the reply is in one piece: tokens of the prompt found in the session's cache and tokens computed, and \
         milliseconds of each part. The same header as of generate.",
    ));
    let error = |status, description| json(status, description, ChatFaultBody::NAME);
    let mut busy = error(503, "The server is full, the model is not ready, or a block server is gone.");
    let mut many = error(429, "Too many sessions or requests.");
    for response in [&mut busy, &mut many] {
        response.headers.push(header("Retry-After", "Seconds after which to try again."));
    }
    let operation = MetaOperation {
        method: Method::POST,
        tags: vec![Tag::Chat.name()],
        summary: Some("Continue a chat"),
        description: Some(
            "Writes the assistant's next message. Streamed, each event's `data` is a ChatChunk; the stream ends with \
             `data: [DONE]`, and a failure on the way is an event whose data is a ChatError. Comment lines keep a slow \
             stream open. Closing the connection stops the compute. Unknown members are passed over; tools, \
             response_format other than text, logprobs, n above 1 and logit_bias are refused by name.",
        ),
        external_docs: None,
        params: Vec::new(),
        request: Some(body("The chat.", true, &[("application/json", REQUEST)])),
        responses: MetaResponses {
            responses: vec![
                fine,
                error(400, "A member is missing, wrong or not supported, or the chat does not fit."),
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
            ],
        },
        deprecated: false,
        security: Vec::new(),
        operation_id: Some("create-chat-completion"),
        code_samples: Vec::new(),
    };
    MetaApi { paths: vec![MetaPath { path: PATH.to_owned(), operations: vec![operation] }] }
}

/// Events as OpenAPI 3.0 can say them: a list of what each `data` holds.
fn stream_schema() -> MetaSchemaRef {
    let shapes = vec![Piece::schema_ref(), named(ChatFaultBody::NAME)];
    let event = inline(one_of(shapes, "A piece of the reply, or the failure that ended it."));
    let description = "Each event's data is one of these; the last event's data is `[DONE]`.";
    inline(MetaSchema { format: Some("event-stream"), ..list(event, description) })
}
