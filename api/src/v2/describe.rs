//! What the description says of `/api/v2/generate`. OpenAPI has no words for WebSockets: the frames are schemas, bound to
//! the answer that switches the protocol, and the text says in which order they come.

use poem::http::Method;
use poem_openapi::{
    Tags as _,
    registry::{MetaApi, MetaMediaType, MetaResponse, MetaSchema, Registry},
    types::Type as _,
};

use crate::{
    fault::FaultBody,
    route::ReplyRoute,
    spec::{
        Tag,
        meta::{
            Member, Operation, boolean, header, inline, integer, json, list, named, object, one_of, one_of_by,
            operation, text,
        },
    },
    v1::generate_members,
};

pub(super) const PATH: &str = "/api/v2/generate";

const FRAME: &str = "SocketFrame";
const ASKED: &str = "SocketRequest";
const OPEN: &str = "OpenSessionFrame";
const GENERATE: &str = "GenerateFrame";
const ANSWER: &str = "SocketAnswer";

const DESCRIPTION: &str = "A WebSocket of text frames, each a JSON object. The client's first frame is an OpenSessionFrame; \
     it is answered by `{\"ok\": true}`. Then come any number of GenerateFrames. They may be sent ahead and are worked off \
     in order. Each is answered by SocketAnswers, the last of which has `stop: true`. Without `stop_sequence` there is one \
     answer, after `max_new_tokens` or `max_length`. With `stop_sequence` a frame comes every `max_new_tokens` tokens \
     until that text (or one of `extra_stop_sequences`) appears, wherever in a token it ends; the model's end-of-text \
     token alone does not end the reply. The stop text is part of `outputs`. Frames of one reply joined are its text; a \
     frame waits for characters that are not complete and for what may be the beginning of a stop text. A failure is one \
     SocketAnswer with `ok: false`, after which the server closes with code 1000. The session lives as long as the \
     socket, unless the first frame named one by `session_id`. Closing the socket stops the compute. The server sends \
     pings; a client that sends nothing for as long as a session may idle is told so and let go. A server that is asked to \
     stop closes with code 1001 once the reply under way has ended.";

pub(super) fn register(registry: &mut Registry) {
    Tag::V2.register(registry);
    FaultBody::register_schema(registry);
    ReplyRoute::register(registry);
    let kind =
        |name: &'static str| ("type", MetaSchema { enum_items: vec![name.into()], ..text("What the frame is for.") });
    let open = object(
        "The client's first frame: which session.",
        vec!["type"],
        [
            kind("open_inference_session"),
            ("max_length", integer(1, "Tokens that the session can hold. Needed unless session_id is given.")),
            ("model", text("Which model; the default one where it is left out.")),
            ("session_id", text("A session of open_inference_session to go on with; it outlives the socket.")),
        ],
    );
    registry.schemas.insert(OPEN.to_owned(), open);
    let mut members: Vec<Member> = vec![kind("generate")];
    members.extend(generate_members().into_iter().filter(|(name, _)| !["session_id", "model"].contains(name)));
    let more = list(
        inline(MetaSchema::new("string")),
        "Further texts that end the reply. stop_sequence must then be one token, and the session goes on as if the model \
         had ended the reply with it. null is none; an empty list is none, but asks for that one token all the same.",
    );
    members.push(("extra_stop_sequences", MetaSchema { nullable: true, max_items: Some(16), ..more }));
    let generate = object("A request for a reply; the parameters of /api/v1/generate.", vec!["type"], members);
    registry.schemas.insert(GENERATE.to_owned(), generate);
    let asked = [("open_inference_session", OPEN), ("generate", GENERATE)];
    let asked = one_of_by("type", &asked, "A frame that the client sends.");
    registry.schemas.insert(ASKED.to_owned(), asked);
    let mut answer = object(
        "A frame that the server sends.",
        vec!["ok"],
        [
            ("ok", boolean("Whether it worked. The answer to the first frame has nothing else.")),
            ("outputs", text("More of the reply. With `ok: false`, what was written and not sent before the failure.")),
            ("stop", boolean("Whether the reply is over.")),
            ("token_count", integer(0, "Tokens behind outputs.")),
            ("traceback", text("Where ok is false: the kind of error and one sentence, as `ErrorType: message`.")),
        ],
    );
    answer.properties.insert(2, ("route", ReplyRoute::schema_ref()));
    registry.schemas.insert(ANSWER.to_owned(), answer);
    let frame = one_of(vec![named(ASKED), named(ANSWER)], "A frame of the WebSocket, in either direction.");
    registry.schemas.insert(FRAME.to_owned(), MetaSchema { one_of: Vec::new(), any_of: frame.one_of, ..frame });
}

pub(super) fn api() -> MetaApi {
    let switch = MetaResponse {
        description: "The connection is a WebSocket now. Its frames are of these shapes.",
        status: Some(101),
        status_range: None,
        content: vec![MetaMediaType { content_type: "application/json", schema: named(FRAME) }],
        headers: Vec::new(),
    };
    let mut full = json(429, "As many sockets are open as the server allows sessions.", FaultBody::NAME);
    full.headers.push(header("Retry-After", "Seconds after which to try again."));
    let refused = json(400, "The request asks for no WebSocket.", FaultBody::NAME);
    let operation = operation(Operation {
        path: PATH,
        method: Method::GET,
        tag: Tag::V2,
        id: "generate-over-websocket",
        summary: "Generate over a WebSocket",
        description: DESCRIPTION,
        params: Vec::new(),
        request: None,
        responses: vec![switch, refused, full],
    });
    MetaApi { paths: vec![operation] }
}
