//! What the description says of `/v1/chat/completions`.

use poem::http::Method;
use poem_openapi::{
    Tags as _,
    registry::{MetaApi, MetaMediaType, MetaSchema, Registry},
    types::Type,
};

use super::{
    shape::{Completion, Piece},
    tools::{MAX_NAME, MAX_TOOLS},
};
use crate::{
    fault::ChatFaultBody,
    openai::describe::{alternatives, errors, shared_members, stream_schema},
    spec::{
        Tag,
        meta::{
            Member, Operation, body, boolean, header, inline, integer, json, list, named, object, one_of, one_of_by,
            operation, or, text,
        },
    },
};

pub(super) const PATH: &str = "/v1/chat/completions";

const REQUEST: &str = "ChatRequest";
const MESSAGE: &str = "ChatMessage";
const PART: &str = "ChatTextPart";
const TOOL: &str = "ChatTool";
const CALL: &str = "ChatMessageToolCall";
const FREE: &str = "ChatFormatText";
const JSON_OBJECT: &str = "ChatFormatJsonObject";
const JSON_SCHEMA: &str = "ChatFormatJsonSchema";

/// Members of OpenAI's requests that change what a reply is, and that this server does not honour yet.
pub(super) const UNSUPPORTED: [&str; 6] =
    ["functions", "function_call", "modalities", "audio", "prediction", "web_search_options"];

/// Members of a request that are read.
pub(super) fn members() -> Vec<Member> {
    let mut all = vec![
        ("model", text("Which model; the session's, or the default one, where it is left out.")),
        ("messages", MetaSchema { min_items: Some(1), ..list(named(MESSAGE), "The chat so far, oldest first.") }),
        (
            "max_completion_tokens",
            integer(0, "New tokens at most; 0 counts as 1. As many as there is room for if left out."),
        ),
        ("max_tokens", integer(0, "The older name of max_completion_tokens.")),
        ("logprobs", or(boolean("Tell how probable each token was."), false)),
        ("top_logprobs", alternatives("Tell so many of the most probable tokens in each place. Needs logprobs.")),
        ("response_format", response_format()),
        (
            "continue_final_message",
            or(
                boolean(
                    "Go on with the last message, which is the assistant's, in place of a new one: only what follows it is \
                     written. An extension.",
                ),
                false,
            ),
        ),
        (
            "tools",
            MetaSchema {
                max_items: Some(MAX_TOOLS),
                ..list(named(TOOL), "Functions that the model may ask for. Their names differ.")
            },
        ),
        ("tool_choice", tool_choice()),
        ("parallel_tool_calls", or(boolean("Whether one reply may ask for several functions."), true)),
        (
            "session_id",
            text(
                "A session of open_inference_session. What the chat has in common with what the session holds is not \
                 computed again. An extension.",
            ),
        ),
    ];
    all.extend(shared_members());
    all
}

/// What the text must be.
fn response_format() -> MetaSchema {
    let shapes = [("text", FREE), ("json_object", JSON_OBJECT), ("json_schema", JSON_SCHEMA)];
    one_of_by("type", &shapes, "What the text must be. Tokens that would lead out of it cannot be drawn.")
}

/// The shapes of that.
fn register_formats(registry: &mut Registry) {
    let kind = |name: &'static str| ("type", MetaSchema { enum_items: vec![name.into()], ..MetaSchema::new("string") });
    let schema = MetaSchema { description: Some("The schema, of at most 64 KB."), ..MetaSchema::new("object") };
    let named = object(
        "The schema.",
        vec!["schema"],
        [
            ("name", MetaSchema { nullable: true, ..text("A name for it; it is not used.") }),
            ("strict", MetaSchema { nullable: true, ..boolean("Always so.") }),
            ("schema", schema),
        ],
    );
    let mut add = |name: &str, shape: MetaSchema| registry.schemas.insert(name.to_owned(), shape);
    add(FREE, object("Any text.", vec!["type"], [kind("text")]));
    add(JSON_OBJECT, object("A JSON object of any members.", vec!["type"], [kind("json_object")]));
    let members = [kind("json_schema"), ("json_schema", named)];
    add(JSON_SCHEMA, object("JSON that a schema describes.", vec!["type", "json_schema"], members));
}

/// Whether and what the model must call.
fn tool_choice() -> MetaSchema {
    let words = MetaSchema {
        enum_items: ["none", "auto", "required"].map(Into::into).to_vec(),
        ..text("none: tools are not shown. auto: the model decides. required: it calls at least one.")
    };
    let function = object("The function.", vec!["name"], [("name", function_name())]);
    let one = object(
        "This one is called, once.",
        vec!["type", "function"],
        [("type", always_function()), ("function", function)],
    );
    let shapes = vec![inline(words), inline(one)];
    one_of(
        shapes,
        "Whether tools are called. A call that must be is made by a grammar: it is one, with right arguments.",
    )
}

/// A function that is offered.
fn tool() -> MetaSchema {
    let schema = MetaSchema {
        nullable: true,
        description: Some("A JSON schema of the arguments, of at most 64 KB; without one there are none."),
        ..MetaSchema::new("object")
    };
    let strict = boolean("Hold the arguments to the schema also where the model need not call anything.");
    let members = [
        ("name", function_name()),
        ("description", MetaSchema { nullable: true, ..text("What it does, for the model; at most 64 KB.") }),
        ("parameters", schema),
        ("strict", MetaSchema { nullable: true, ..or(strict, false) }),
    ];
    let function = object("The function.", vec!["name"], members);
    object(
        "A function that the model may ask for.",
        vec!["type", "function"],
        [("type", always_function()), ("function", function)],
    )
}

/// A call in a message.
fn call() -> MetaSchema {
    let members = [("name", function_name()), ("arguments", text("Its arguments as JSON."))];
    let function = object("The function and its arguments.", vec!["name", "arguments"], members);
    let id = MetaSchema { min_length: Some(1), max_length: Some(256), ..text("Names the call.") };
    object(
        "A function that the assistant asked for.",
        vec!["id", "type", "function"],
        [("id", id), ("type", always_function()), ("function", function)],
    )
}

fn function_name() -> MetaSchema {
    MetaSchema {
        min_length: Some(1),
        max_length: Some(MAX_NAME),
        pattern: Some("^[A-Za-z0-9_-]+$".to_owned()),
        ..text("Its name.")
    }
}

fn always_function() -> MetaSchema {
    MetaSchema { enum_items: vec!["function".into()], ..text("Always `function`.") }
}

pub(super) fn register(registry: &mut Registry) {
    Tag::Chat.register(registry);
    Completion::register(registry);
    Piece::register(registry);
    ChatFaultBody::register(registry);
    let roles = ["system", "developer", "user", "assistant", "tool"].map(Into::into).to_vec();
    let role = MetaSchema {
        enum_items: roles,
        ..text("Who speaks. developer is the same as system; tool is what a function returned.")
    };
    let parts = list(named(PART), "Texts that are put together.");
    let words = MetaSchema { nullable: true, ..text("The text; null is fine for the assistant.") };
    let content = one_of(vec![inline(words), inline(parts)], "What is said.");
    let calls =
        MetaSchema { nullable: true, max_items: Some(MAX_TOOLS), ..list(named(CALL), "What the assistant asked for.") };
    let answered = "Which call it answers. Needed where the role is tool.";
    let answered = MetaSchema { nullable: true, min_length: Some(1), max_length: Some(256), ..text(answered) };
    let parts_of_it = [("role", role), ("content", content), ("tool_calls", calls), ("tool_call_id", answered)];
    let message = object("One message of a chat.", vec!["role"], parts_of_it);
    register_formats(registry);
    registry.schemas.insert(TOOL.to_owned(), tool());
    registry.schemas.insert(CALL.to_owned(), call());
    registry.schemas.insert(MESSAGE.to_owned(), message);
    let kind = MetaSchema { enum_items: vec!["text".into()], ..text("Always `text`.") };
    let part = object("A part of a message.", vec!["type", "text"], [("type", kind), ("text", text("The text."))]);
    registry.schemas.insert(PART.to_owned(), part);
    registry.schemas.insert(REQUEST.to_owned(), object("A chat, and how to continue it.", vec!["messages"], members()));
}

pub(super) fn api() -> MetaApi {
    let mut fine =
        json(200, "The reply: in one piece, or as events where `stream` is true.", Completion::name().as_ref());
    let shapes = vec![Piece::schema_ref(), named(ChatFaultBody::NAME)];
    let event = one_of(shapes, "A piece of a reply, or the failure that ended it.");
    fine.content.push(MetaMediaType { content_type: "text/event-stream", schema: stream_schema(event) });
    fine.headers.push(header(
        "Server-Timing",
        "Where the reply is in one piece: tokens of the prompt found in the session's cache and tokens computed, and \
         milliseconds of each part. The same header as of generate.",
    ));
    let operation = operation(Operation {
        path: PATH,
        method: Method::POST,
        tag: Tag::Chat,
        id: "create-chat-completion",
        summary: "Continue a chat",
        description: "Writes the assistant's next message. Streamed, each event's `data` is a ChatChunk; the stream \
                      ends with `data: [DONE]`, and a failure on the way is an event whose data is a ChatError. \
                      Comment lines keep a slow stream open. Closing the connection stops the compute. Unknown members \
                      are passed over. A call of a tool leaves the text and stands \
                      in `tool_calls`; in a stream it comes whole.",
        params: Vec::new(),
        request: Some(body("The chat.", true, &[("application/json", REQUEST)])),
        responses: errors(fine),
    });
    MetaApi { paths: vec![operation] }
}
