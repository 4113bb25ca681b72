//! Replies whose blocks other servers run: what these hold, for how long, and when they give it back.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    hosting::{bootstrap, tiny},
    server::Server,
};

const NEW_TOKENS: u64 = 6;

/// Two servers with a part of the blocks each, which they run for others, and the configuration of one that has none.
struct Swarm {
    hosts: [Server; 2],
    joined: String,
    _entrance: crate::hosting::Member,
}

impl Swarm {
    /// Each with so many positions of KV cache.
    async fn of(room: u64) -> Self {
        let (entrance, _, token) = bootstrap();
        let joins = format!("[models.swarm]\njoin = \"{token}\"\n");
        let part = |blocks| tiny(&format!("block_range = \"{blocks}\"\ncache_tokens = {room}\n{joins}[models.host]\n"));
        let parts = [part("0:2"), part("2:3")];
        // Each is ready when the other one serves its part.
        let (first, second) = tokio::join!(Server::start(&parts[0]), Server::start(&parts[1]));
        Self { hosts: [first, second], joined: tiny(&format!("blocks = \"swarm\"\n{joins}")), _entrance: entrance }
    }

    /// A server for people, which keeps so much for so many seconds.
    async fn client(&self, kept: u64, seconds: u64) -> Server {
        Server::start(&format!("[sessions]\nprefix_cache = {kept}\nidle_seconds = {seconds}\n{}", self.joined)).await
    }

    /// Positions that sessions hold at each host.
    async fn held(&self) -> [u64; 2] {
        let mut held = [0; 2];
        for (held, host) in held.iter_mut().zip(&self.hosts) {
            let of = |what: &str| format!("corolla_kv_cache_{what}{{model=\"tiny-llama\"}}");
            *held = host.metric(&of("tokens")).await - host.metric(&of("free_tokens")).await;
        }
        held
    }
}

/// A text of tokens that no other `kind` begins with.
fn text(kind: u64, length: u64) -> Vec<u64> {
    (0..length).map(|at| 10 + (kind * 97 + at * 7) % 200).collect()
}

/// What follows it, and how many of its tokens were found computed.
async fn ask(server: &Server, prompt: &[u64]) -> (String, u64) {
    let body = json!({"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0});
    let reply = server.http.post(format!("{}/v1/completions", server.base)).json(&body).send().await.unwrap();
    let reply: Value = reply.json().await.unwrap();
    let text = reply["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned();
    (text, reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_a_swarm_has_read_is_not_read_again_and_is_given_back() {
    let swarm = Swarm::of(20_000).await;
    let begins = text(1, 40);
    let goes_on: Vec<u64> = [&begins[..], &text(2, 10)].concat();
    let alone = Server::start(&format!("[sessions]\nprefix_cache = 0\n{}", tiny(""))).await;
    let (first, second) = (ask(&alone, &begins).await, ask(&alone, &goes_on).await);
    assert_eq!((first.1, second.1), (0, 0));

    let client = swarm.client(1, 300).await;
    assert_eq!(ask(&client, &begins).await, first);
    let read = client.metric("corolla_tokens_computed_total").await;
    assert_eq!(ask(&client, &goes_on).await, (second.0, 40), "the same words, of which 40 tokens were there");
    let read = client.metric("corolla_tokens_computed_total").await - read;
    assert!(read < 10 + NEW_TOKENS + 1, "{read} positions went through the swarm");
    assert_eq!(client.metric("corolla_prefix_hits_total").await, 1);
    assert_eq!(client.metric("corolla_prefix_tokens_total").await, 40);

    // Another one takes its place, also in the hosts' caches.
    let one = swarm.held().await;
    assert!(one[0] > 0 && one[1] > 0, "{one:?}");
    let _ = ask(&client, &text(3, 40)).await;
    assert_eq!(client.metric("corolla_prefixes_kept").await, 1);
    let no_more = |held: [u64; 2]| held[0] <= one[0] && held[1] <= one[1];
    client.until("the first one's are given back", async || no_more(swarm.held().await)).await;

    // Those of a server that leaves are given back, and those that nobody has asked for again.
    assert!(client.terminate().await.success());
    alone.until("a server that left holds nothing", async || swarm.held().await == [0, 0]).await;
    let forgets = swarm.client(8, 1).await;
    assert_eq!(ask(&forgets, &begins).await, first);
    forgets.until("it is forgotten", async || forgets.metric("corolla_prefixes_kept").await == 0).await;
    forgets.until("it is given back", async || swarm.held().await == [0, 0]).await;
}

/// Hosts that are full of what may be of use have room for what is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_swarm_keeps_gives_way_to_who_needs_its_room() {
    let swarm = Swarm::of(200).await;
    let client = swarm.client(100, 300).await;
    let alone = Server::start(&format!("[sessions]\nprefix_cache = 0\n{}", tiny(""))).await;
    for kind in 0..10 {
        let prompt = text(kind, 40);
        assert_eq!(ask(&client, &prompt).await, ask(&alone, &prompt).await, "reply {kind}");
    }
    let kept = client.metric("corolla_prefixes_kept").await;
    assert!((1..=4).contains(&kept), "{kept} conversations of 46 positions or more in caches of 200");
}

/// However somebody asks and leaves, every hop lets go of what it did for him.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_leaves_nothing_behind_at_any_hop() {
    let swarm = Swarm::of(4000).await;
    let client = swarm.client(0, 300).await;
    let written = async || client.metric("corolla_tokens_generated_total").await;
    let mut left = 0;
    let mut check = async |before: u64| {
        left += 1;
        client.until("every hop lets go", async || swarm.held().await == [0, 0]).await;
        let broken_off = client.metric("corolla_turns_ended_total{model=\"tiny-llama\",how=\"broken_off\"}").await;
        assert_eq!((broken_off, client.metric("corolla_turns_running").await), (left, 0));
        assert!(written().await < before + 900, "it ended early");
    };
    for (path, stream) in [
        ("/api/v1/generate", false),
        ("/v1/completions", false),
        ("/v1/completions", true),
        ("/v1/chat/completions", false),
        ("/v1/chat/completions", true),
    ] {
        let body = json!({"inputs": "Once", "max_new_tokens": 900, "prompt": "Once", "max_tokens": 900, "stream": stream,
            "messages": [{"role": "user", "content": "Once"}], "temperature": 0});
        let before = written().await;
        let request = client.http.post(format!("{}{path}", client.base)).json(&body).send();
        let reads = tokio::spawn(async move { request.await.unwrap().bytes().await });
        client.until("it writes", async || written().await >= before + 3).await;
        let held = swarm.held().await;
        assert!(held[0] > 0 && held[1] > 0, "{path}: {held:?}");
        reads.abort();
        check(before).await;
    }
    let before = written().await;
    let (mut socket, _) =
        connect_async(format!("{}/api/v2/generate", client.base.replacen("http", "ws", 1))).await.unwrap();
    for frame in [
        json!({"type": "open_inference_session", "max_length": 1000}),
        json!({"type": "generate", "inputs": "Once", "max_new_tokens": 900}),
    ] {
        socket.send(Message::text(frame.to_string())).await.unwrap();
    }
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("{\"ok\": true}"));
    client.until("it writes", async || written().await >= before + 3).await;
    drop(socket);
    check(before).await;
}

/// The grammar is beside the LM head, which is here.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reply_must_be_is_kept_where_others_run_the_blocks() {
    let swarm = Swarm::of(4000).await;
    let (client, alone) = (swarm.client(0, 300).await, Server::start(&tiny("")).await);
    let members =
        json!({"colour": {"enum": ["red", "green"]}, "trees": {"type": "integer", "minimum": 0, "maximum": 9}});
    let schema = json!({"type": "object", "properties": members, "required": ["colour", "trees"], "additionalProperties": false});
    for seed in 0..4 {
        let body = json!({"messages": [{"role": "user", "content": "A garden"}], "seed": seed, "temperature": 1.5,
            "max_tokens": 100, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
        let mut said = Vec::new();
        for server in [&client, &alone] {
            let reply = server.http.post(format!("{}/v1/chat/completions", server.base)).json(&body).send();
            let reply: Value = reply.await.unwrap().json().await.unwrap();
            let text = reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{reply}"));
            let garden: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {reply}"));
            assert!(["red", "green"].contains(&garden["colour"].as_str().unwrap()), "{garden}");
            assert!(garden["trees"].as_u64().unwrap() <= 9, "{garden}");
            said.push(text.to_owned());
        }
        assert_eq!(said[0], said[1], "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_nobody_runs_are_named() {
    let (_entrance, _, token) = bootstrap();
    let joins = format!("[models.swarm]\njoin = \"{token}\"\n");
    let config = tiny(&format!("block_range = \"1:2\"\n{joins}[models.host]\n"));
    let server = Server::open_door(&config, &[], "info");
    let mut said = Value::Null;
    server
        .until("its own part is there", async || {
            let (status, text) = server.get("/health/ready").await;
            said = serde_json::from_str(&text).unwrap();
            assert_eq!((status, &said["code"]), (503, &json!("not_ready")), "{said}");
            said["models"][0]["missing_blocks"] == json!([0, 2])
        })
        .await;
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("not every model can answer: tiny-llama: ") && message.contains("blocks 0, 2"),
        "{said}"
    );
    let (_, swarms) = server.get("/api/v1/swarm").await;
    assert!(swarms.contains("\"missing\":[0,2]"), "{swarms}");
    let (status, text) = server.get("/health/live").await;
    assert!(status == 200 && text.contains("\"ok\""), "{text}");
}
