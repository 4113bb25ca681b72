//! What the description says of `/api/v1`.

use poem::http::Method;
use poem_openapi::{
    Tags as _,
    registry::{MetaApi, MetaPath, MetaSchema, Registry},
    types::Type as _,
};

use crate::{
    fault::FaultBody,
    route::ReplyRoute,
    spec::{
        Tag,
        meta::{
            Member, Operation, above, body, boolean, header, inline, integer, json, number, object, one_of, operation,
            or, query, text,
        },
    },
};

pub(super) const GENERATE: &str = "/api/v1/generate";
pub(super) const OPEN: &str = "/api/v1/open_inference_session";
pub(super) const CLOSE: &str = "/api/v1/close_inference_session";

const FORM: &str = "GenerateForm";
const GENERATED: &str = "GenerateAnswer";
const SESSION: &str = "SessionAnswer";

/// Parameters of generate, in the order in which they are read.
pub(crate) fn generate_members() -> Vec<Member> {
    let switch = one_of(
        vec![inline(MetaSchema::new_with_format("integer", "int64")), inline(MetaSchema::new("boolean"))],
        "Draw tokens at random. 0 or false: take the most probable one each time; the other sampling parameters then \
         have no effect.",
    );
    vec![
        (
            "inputs",
            text(
                "Text to continue. Left out, a session goes on from where it is, and a request of its own starts from \
                 the model's first token. An empty text is an error.",
            ),
        ),
        ("do_sample", or(switch, 0)),
        (
            "temperature",
            or(number(0.0, 100.0, "Divides the scores before drawing; 0 is the same as not sampling."), 1.0),
        ),
        ("top_k", integer(1, "Draw from this many of the most probable tokens. Not together with top_p.")),
        ("top_p", above(0.0, 1.0, "Draw from the most probable tokens that reach this probability together. Above 0.")),
        (
            "max_length",
            integer(
                1,
                "Tokens in all: what the session holds, the inputs, and the new ones. Exactly one of max_length and \
                 max_new_tokens must be given.",
            ),
        ),
        (
            "max_new_tokens",
            integer(0, "New tokens at most; 0 counts as 1. Exactly one of the two lengths must be given."),
        ),
        ("session_id", text("The session to continue, as open_inference_session named it.")),
        ("model", text("Which model; the session's, or the default one, where it is left out.")),
        (
            "repetition_penalty",
            or(number(0.01, 100.0, "Above 1, tokens that are already in the text become less probable."), 1.0),
        ),
        (
            "seed",
            MetaSchema {
                description: Some("The same seed and the same request give the same tokens."),
                ..MetaSchema::new_with_format("integer", "int64")
            },
        ),
        ("stop_sequence", text("The reply ends where this text does. The text itself is part of outputs.")),
        ("min_p", number(0.0, 1.0, "Draw from tokens at least this fraction as probable as the best one.")),
    ]
}

pub(super) fn register(registry: &mut Registry) {
    Tag::V1.register(registry);
    FaultBody::register_schema(registry);
    ReplyRoute::register(registry);
    let ok = || ("ok", boolean("Whether it worked."));
    let traceback = || {
        let sentence = "Where ok is false: the kind of error and one sentence, as `ErrorType: message`.";
        ("traceback", text(sentence))
    };
    let outputs = "The new text only. Also there where ok is false but tokens were produced: the session holds them.";
    registry.schemas.insert(FORM.to_owned(), object("What to generate, and how.", Vec::new(), generate_members()));
    let mut generated =
        object("The reply, or why there is none.", vec!["ok"], [ok(), ("outputs", text(outputs)), traceback()]);
    generated.properties.insert(2, ("route", ReplyRoute::schema_ref()));
    registry.schemas.insert(GENERATED.to_owned(), generated);
    let id = MetaSchema { nullable: true, ..text("32 hexadecimal digits; null where close was given none.") };
    registry.schemas.insert(
        SESSION.to_owned(),
        object("The session, or why there is none.", vec!["ok"], [ok(), ("session_id", id), traceback()]),
    );
}

pub(super) fn api() -> MetaApi {
    MetaApi { paths: vec![generate(), open(), close()] }
}

fn generate() -> MetaPath {
    let mut answer = json(
        200,
        "Every handled outcome. `ok` tells a reply from a failure: bad parameters, an expired session, a full server.",
        GENERATED,
    );
    answer.headers.push(header(
        "Server-Timing",
        "Tokens of the prompt found in the session's cache and tokens computed; milliseconds spent waiting, reading the \
         prompt and writing the reply: `prompt;desc=\"cached=12 computed=5\", wait;dur=0.1, prefill;dur=52.0, \
         decode;dur=310.9;desc=\"8 tokens\"`.",
    ));
    let content =
        [("application/x-www-form-urlencoded", FORM), ("multipart/form-data", FORM), ("application/json", FORM)];
    operation(Operation {
        path: GENERATE,
        method: Method::POST,
        tag: Tag::V1,
        id: "generate-text",
        summary: "Continue a text",
        description: "Generates tokens after `inputs`, or after what a session already holds. Parameters stand in the \
                      query string, in a form or in a JSON object; where one is given twice, the query string wins. \
                      In a session nothing is computed twice: the `Server-Timing` header counts what came from its \
                      cache. Closing the connection stops the compute.",
        params: generate_members().into_iter().map(query).collect(),
        request: Some(body("Parameters that are not in the query string.", false, &content)),
        responses: vec![
            answer,
            json(400, "The body broke off.", FaultBody::NAME),
            json(408, "The body came too slowly.", FaultBody::NAME),
            json(413, "The body is longer than the server takes.", FaultBody::NAME),
        ],
    })
}

fn open() -> MetaPath {
    operation(Operation {
        path: OPEN,
        method: Method::GET,
        tag: Tag::V1,
        id: "open-inference-session",
        summary: "Open a session",
        description: "A session keeps what was computed, so that a conversation is not read anew with each reply. It \
                      is forgotten some time after its last reply. HEAD does the same without an answer's body.",
        params: vec![
            query((
                "max_length",
                integer(1, "Tokens that the session can hold, prompts and replies; the server's default if left out."),
            )),
            query(("model", text("Which model; the default one where it is left out."))),
        ],
        request: None,
        responses: vec![json(200, "Every handled outcome; `ok` tells a session from a failure.", SESSION)],
    })
}

fn close() -> MetaPath {
    operation(Operation {
        path: CLOSE,
        method: Method::GET,
        tag: Tag::V1,
        id: "close-inference-session",
        summary: "Close a session",
        description: "Frees what a session holds. Closing one that is unknown or expired is fine. HEAD does the same \
                      without an answer's body.",
        params: vec![query(("session_id", text("The session, as open_inference_session named it.")))],
        request: None,
        responses: vec![json(200, "The session is closed, or never was.", SESSION)],
    })
}
