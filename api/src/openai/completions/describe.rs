//! What the description says of `/v1/completions`.

use poem::http::Method;
use poem_openapi::{
    Tags as _,
    registry::{MetaApi, MetaMediaType, MetaSchema, Registry},
    types::Type,
};

use super::{
    request::{DEFAULT_TOKENS, MAX_PROMPTS},
    shape::Completion,
};
use crate::{
    fault::ChatFaultBody,
    openai::describe::{alternatives, errors, prompts, shared_members, stream_schema},
    spec::{
        Tag,
        meta::{
            Member, Operation, body, boolean, inline, integer, json, list, named, object, one_of, operation, or, text,
        },
    },
};

pub(super) const PATH: &str = "/v1/completions";

const REQUEST: &str = "CompletionRequest";

/// Members of a request that are read.
pub(super) fn members() -> Vec<Member> {
    let mut all = vec![
        ("model", text("Which model; the session's, or the default one, where it is left out.")),
        ("prompt", prompts(MAX_PROMPTS, "What to continue. Left out, the model's first token.")),
        ("max_tokens", or(integer(0, "New tokens at most. 0 needs echo: true."), DEFAULT_TOKENS as u64)),
        ("echo", or(boolean("Show the prompt before the text. Not in a session."), false)),
        (
            "logprobs",
            alternatives("Tell how probable each token was, and so many of the most probable ones beside it."),
        ),
        ("best_of", integer(1, "The same as n: all that is written is shown.")),
        ("session_id", text("A session of open_inference_session; the prompt is appended to it. An extension.")),
    ];
    all.extend(shared_members());
    all
}

pub(super) fn register(registry: &mut Registry) {
    Tag::Completions.register(registry);
    Completion::register(registry);
    ChatFaultBody::register(registry);
    registry.schemas.insert(REQUEST.to_owned(), object("Texts, and how to continue them.", Vec::new(), members()));
    // Lists that hold null are more than the macros can say.
    let number = || MetaSchema { nullable: true, ..MetaSchema::new_with_format("number", "double") };
    let row = MetaSchema {
        nullable: true,
        additional_properties: Some(Box::new(inline(MetaSchema::new_with_format("number", "double")))),
        ..MetaSchema::new("object")
    };
    let all = vec!["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    let offset = MetaSchema::new_with_format("integer", "uint64");
    let lists = object(
        "How probable the tokens of a text were: lists of equal length.",
        all,
        [
            ("tokens", list(inline(MetaSchema::new("string")), "Texts of the tokens.")),
            (
                "token_logprobs",
                list(
                    inline(number()),
                    "Natural logarithms of their probabilities, before temperature, penalties and biases; null for the \
                     first token of a text, which follows nothing.",
                ),
            ),
            (
                "top_logprobs",
                list(inline(row), "The most probable tokens in each place, and the one that stands there."),
            ),
            ("text_offset", list(inline(offset), "Where in the text each token begins, in characters.")),
        ],
    );
    registry.schemas.insert("CompletionLogprobs".to_owned(), lists);
}

pub(super) fn api() -> MetaApi {
    let mut fine =
        json(200, "The texts: in one piece, or as events where `stream` is true.", Completion::name().as_ref());
    let shapes = vec![Completion::schema_ref(), named(ChatFaultBody::NAME)];
    let event = one_of(shapes, "A piece of a text, or the failure that ended it.");
    fine.content.push(MetaMediaType { content_type: "text/event-stream", schema: stream_schema(event) });
    let operation = operation(Operation {
        path: PATH,
        method: Method::POST,
        tag: Tag::Completions,
        id: "create-completion",
        summary: "Continue texts",
        description: "Writes what follows one or several prompts, `n` texts for each. Streamed, each event's `data` is \
                      a Completion with a piece of one text; the stream ends with `data: [DONE]`, and a failure on the \
                      way is an event whose data is a ChatError. Comment lines keep a slow stream open. Closing the \
                      connection stops the compute. With `echo: true, max_tokens: 0, logprobs: 0` nothing is written, \
                      and the prompt is scored. Unknown members are passed over; suffix is refused by name.",
        params: Vec::new(),
        request: Some(body("The prompts.", true, &[("application/json", REQUEST)])),
        responses: errors(fine),
    });
    MetaApi { paths: vec![operation] }
}
