//! A private swarm of this machine's processes: `corolla bootstrap`, `corolla host`, and `corolla serve` on both sides.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use testkit::fixtures;

use crate::server::{Server, corolla, model, run};

const PATIENCE: Duration = Duration::from_secs(60);
const PROMPT: [(&str, &str); 2] = [("inputs", "Once upon a time"), ("max_new_tokens", "12")];

/// A member of a swarm that runs until it is dropped.
pub(crate) struct Member {
    child: Child,
    printed: Receiver<String>,
    said: Receiver<String>,
}

impl Member {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(Path::new(env!("CARGO_TARGET_TMPDIR")), arguments)
    }

    /// One that keeps what it measures in `cache`.
    fn start_with(cache: &Path, arguments: &[&str]) -> Self {
        let mut command = corolla();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("COROLLA_CACHE", cache).current_dir(env!("CARGO_TARGET_TMPDIR"));
        let mut child = command.spawn().unwrap();
        let printed = lines(child.stdout.take().unwrap());
        let said = lines(child.stderr.take().unwrap());
        Self { child, printed, said }
    }

    /// The next line of its output.
    fn line(&self) -> String {
        self.printed.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no more lines; it said: {}", self.log()))
    }

    /// Waits for a line of its log that has these words; the log up to it.
    fn until(&self, words: &str) -> String {
        let mut log = String::new();
        while !log.contains(words) {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {words:?} in: {log}"));
            let _ = writeln!(log, "{line}");
        }
        log
    }

    fn log(&self) -> String {
        self.said.try_iter().collect::<Vec<_>>().join("\n")
    }

    /// Waits until it ends by itself, with these words and this code.
    fn ends_refused(mut self, words: &str, code: i32) {
        let log = self.until(words);
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{log}");
    }

    /// Asks it to end, and waits for that.
    fn stop(mut self) {
        let asked = std::process::Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(asked.success());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, told) = sync_channel(4096);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = tell.try_send(line);
        }
    });
    told
}

/// A swarm's entrance: its address and its token.
pub(crate) fn bootstrap() -> (Member, String, String) {
    bootstrap_for("tiny-llama", "tiny-llama-hf")
}

fn bootstrap_for(model: &str, prefix: &str) -> (Member, String, String) {
    bootstrap_with(&["--dht-prefix", prefix, "--model", model])
}

fn bootstrap_with(more: &[&str]) -> (Member, String, String) {
    let node = Member::start(&[&["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0"][..], more].concat());
    let (address, token) = (node.line(), node.line());
    assert!(address.contains("/p2p/") && token.starts_with("corolla1-"), "{address} {token}");
    (node, address, token)
}

/// The model, computed in f32 so that a swarm of f32 servers says the same.
pub(crate) fn tiny(more: &str) -> String {
    model("tiny-llama", &fixtures::path("models/tiny-llama"), &format!("dtype = \"f32\"\n{more}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_commands_make_a_swarm_and_its_replies_are_those_of_one_machine() {
    let alone = Server::start(&tiny("")).await.outputs(&PROMPT).await;
    let (_node, _, token) = bootstrap();
    let path = fixtures::path("models/tiny-llama");
    let f32 = ["--dtype", "f32"];
    let hosts = ["0:2", "2:3"].map(|blocks| {
        let member = Member::start(
            &[&["host", "--join", &token, "--model", path.to_str().unwrap(), "--blocks", blocks][..], &f32].concat(),
        );
        member.until("serving the blocks");
        member
    });
    // The token alone, and a configuration whose model has the token's name.
    let flags = ["--join", &token, "--model", path.to_str().unwrap()];
    let joined = Server::start_with("", &[&flags[..], &f32].concat()).await;
    assert_eq!(joined.outputs(&PROMPT).await, alone);
    let (_, swarms) = joined.get("/api/v1/swarm").await;
    assert!(
        swarms.contains(&format!("\"join\":\"{token}\",\"file\":\"tiny-llama\"")),
        "the page can tell others: {swarms}"
    );
    let configured = Server::start_with(&tiny(""), &["--join", &token]).await;
    assert_eq!(configured.outputs(&PROMPT).await, alone);
    for host in hosts {
        host.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_its_blocks_to_the_swarm_too() {
    let (_node, _, token) = bootstrap();
    let swarm = format!("[models.swarm]\njoin = \"{token}\"\n");
    // Each has half of the blocks, and the other half from the other one.
    let half =
        |range: &str| tiny(&format!("block_range = \"{range}\"\n{swarm}[models.host]\npublic_name = \"{range}\"\n"));
    let halves = [half("0:2"), half("2:3")];
    // A model is ready when all of its blocks are somewhere.
    let (first, second) = tokio::join!(Server::start(&halves[0]), Server::start(&halves[1]));
    let status = || run(&tiny(&format!("blocks = \"swarm\"\n{swarm}")), &["swarm", "status", "--json"]);
    first.until("both serve", async || said(&status()).matches("\"rps\"").count() == 2).await;
    let alone = Server::start(&tiny("")).await.outputs(&PROMPT).await;
    assert_eq!(first.outputs(&PROMPT).await, alone);
    assert_eq!(second.outputs(&PROMPT).await, alone);
}

/// The swarm of `make swarm-demo`: a host dies in the middle of a reply, and the reply has the words it would have had.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_outlives_its_host() {
    let (_node, _, token) = bootstrap_for("smollm2-135m-instruct", "smollm2-demo");
    let path = fixtures::smollm2();
    let path = path.to_str().unwrap();
    let parts = ["0:15", "15:30", "0:30"];
    let mut hosts: Vec<(Member, String)> = parts
        .iter()
        .map(|blocks| {
            let arguments =
                ["host", "--join", &token, "--model", path, "--blocks", blocks, "--dtype", "f32", "--threads", "1"];
            let member = Member::start(&arguments);
            let peer = member.line().rsplit('/').next().unwrap().to_owned();
            (member, peer)
        })
        .collect();
    for (host, _) in &hosts {
        host.until("serving the blocks");
    }
    let page = Server::start_with("", &["--join", &token, "--model", path, "--dtype", "f32"]).await;
    let form = [("inputs", "The garden was full of flowers"), ("max_new_tokens", "48")];
    let (whole, _) = page.generate(&form).await;
    assert_eq!(whole["ok"], true, "{whole}");
    let served = &whole["route"]["hops"][0]["peer"];
    let at = hosts.iter().position(|(_, peer)| served == peer).unwrap_or_else(|| panic!("{whole}"));
    let (broken, ()) = tokio::join!(page.generate(&form), async {
        // Tokens of the second reply have arrived when there are more of them than the first one had.
        page.until("the reply is under way", async || page.metric("corolla_tokens_generated_total").await > 48 + 8)
            .await;
        drop(hosts.remove(at));
    });
    assert_eq!(broken.0["outputs"], whole["outputs"], "{}", broken.0);
    assert_eq!(broken.0["route"]["failovers"].as_array().map(Vec::len), Some(1), "{}", broken.0);
    let ours = "{model=\"smollm2-135m-instruct\"}";
    for name in ["failovers_total", "failover_pause_seconds_count"] {
        assert_eq!(page.metric(&format!("corolla_{name}{ours}")).await, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_secret_is_told_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("swarm.key");
    let (_node, _, token) =
        bootstrap_with(&["--dht-prefix", "tiny", "--model", "tiny-llama", "--secret-file", secret.to_str().unwrap()]);
    let server = Server::start(&tiny(&format!("[models.swarm]\njoin = \"{token}\"\n[models.host]\n"))).await;
    let (status, swarms) = server.get("/api/v1/swarm").await;
    assert!(status == 200 && swarms.contains("\"join\":null,\"file\":\"tiny-llama\""), "{swarms}");
}

#[test]
fn the_token_carries_the_secret_and_nobody_else_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("swarm.key");
    let node = Member::start(&[
        "bootstrap",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--dht-prefix",
        "tiny",
        "--secret-file",
        secret.to_str().unwrap(),
    ]);
    let (address, token) = (node.line(), node.line());
    let path = fixtures::path("models/tiny-llama");
    let model = ["host", "--model", path.to_str().unwrap(), "--blocks", "0:1"];
    let member = Member::start(&[&model[..], &["--join", &token]].concat());
    member.until("serving the blocks");
    let knows = Member::start(
        &[
            &model[..],
            &["--initial-peers", &address, "--dht-prefix", "tiny", "--secret-file", secret.to_str().unwrap()],
        ]
        .concat(),
    );
    knows.until("serving the blocks");
    let stranger = Member::start(&[&model[..], &["--initial-peers", &address, "--dht-prefix", "tiny"]].concat());
    stranger.ends_refused("private swarm, whose secret is missing here", 1);
}

/// A host that joined by a token with a list admits who is on the list, and nobody else.
#[test]
fn the_token_carries_the_list_of_members_and_nobody_else_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (host, client) = (file("host.id"), file("client.id"));
    // Whoever starts once with a file has its name from then on.
    let [host_name, client_name] = [&host, &client].map(|identity| {
        let (_member, address, _) = bootstrap_with(&["--identity", identity]);
        address.rsplit('/').next().unwrap().to_owned()
    });
    let members = format!("{host_name},{client_name}");
    let (_node, entrance, token) = bootstrap_with(&["--dht-prefix", "tiny", "--allowed-peers", &members]);
    let path = fixtures::path("models/tiny-llama");
    let model = ["host", "--model", path.to_str().unwrap(), "--blocks", "0:1"];
    let first = Member::start(&[&model[..], &["--join", &token, "--identity", &host]].concat());
    let address = first.line();
    assert!(address.ends_with(&host_name), "{address}");
    first.until("serving the blocks");

    let through_the_host = ["--initial-peers", &address, "--dht-prefix", "tiny"];
    Member::start(&[&model[..], &through_the_host].concat()).ends_refused("listed peers only", 1);
    let listed = Member::start(&[&model[..], &through_the_host, &["--identity", &client]].concat());
    listed.until("serving the blocks");

    // What is typed takes the place of the token's list, in which the entrance is.
    let closed = ["--join", &token, "--identity", &host, "--allowed-peers", &host_name];
    let why = format!("{entrance} is not in the list of allowed peers");
    Member::start(&[&model[..], &closed].concat()).ends_refused(&why, 2);
}

#[test]
fn what_cannot_be_hosted_is_said_in_a_sentence() {
    let (_node, address, token) = bootstrap();
    let path = fixtures::path("models/tiny-llama");
    let path = path.to_str().unwrap();
    let damaged = format!("{}x", &token[..token.len() - 1]);
    for (arguments, sentence) in [
        (&["host"][..], "which model's blocks?"),
        (&["host", "--model", path, "--blocks", "0:2"], "needs a swarm to serve"),
        (&["host", "--model", path, "--join", &damaged], "the join token is damaged"),
        (&["host", "--model", path, "--join", &address], "is no join token"),
        (&["host", "--model", path, "--join", &token, "--blocks", "3:9"], "goes beyond the model's blocks"),
        (&["host", "--model", path, "--join", &token, "--num-blocks", "4"], "there are 3"),
        (&["host", "--model", path, "--join", &token, "--num-blocks", "0"], "a number of blocks from 1 on, or auto"),
        (&["host", "--model", path, "--num-blocks", "2", "--blocks", "0:2"], "cannot be used with"),
        (&["host", "--model", path, "--join", &token, "--attn-cache-tokens", "999999999999"], "not enough memory"),
        (
            &["host", "--model", path, "--join", &token, "--num-blocks", "2", "--attn-cache-tokens", "999999999999"],
            "not enough memory",
        ),
        (&["host", "--model", path, "--initial-peers", &address, "--dht-prefix", "a.b"], "a.b"),
        (&["host", "--model", path, "--join", &token, "--blocks", "2"], "is no run of blocks"),
        (&["host", "--model", path, "--join", &token, "--listen", "0.0.0.0:1"], "which is no address"),
        (&["host", "--model", path, "--join", &token, "--update-period", "soon"], "is no time"),
        (&["host", "--model", path, "--join", &token, "--attn-cache-tokens", "0"], "leaves no room"),
        (
            &["host", "--model", path, "--join", &token, "--attn-cache-bytes", "1"],
            "is no size; write a whole number of MB",
        ),
        (&["host", "--model", path, "--join", &token, "--attn-cache-bytes", "900000GiB"], "not enough memory"),
        (
            &["host", "--model", path, "--attn-cache-tokens", "9", "--attn-cache-bytes", "1GiB"],
            "'--attn-cache-tokens <N>' cannot be used with '--attn-cache-bytes <SIZE>'",
        ),
        (&["host", "--model", "nowhere.gguf", "--join", &token], "nowhere.gguf"),
        (&["host", "--model", path, "--join", &token, "--backend", "tch"], "backend = \"tch\" cannot be used"),
        (&["serve", "--join", &token, "--listen", "127.0.0.1:0"], "is not configured; say where its files are"),
        (&["host", "--model", path, "--join", &token, "--secret-file", path], "secret file"),
        (&["host", "--model", path, "--join", &token, "--allowed-peers", "me"], "\"me\", which is no peer id"),
        (&["bootstrap", "--listen", "here"], "here"),
        (&["bootstrap", "--secret-file", path], "secret file"),
    ] {
        let output =
            corolla().args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(sentence), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?} has begun");
    }
}

#[test]
fn what_was_measured_is_known_the_next_time() {
    let (cache, (node, address, _)) = (tempfile::tempdir().unwrap(), bootstrap_for("m", "tiny"));
    let model = fixtures::path("models/tiny-bloom");
    let host = |more: &[&str]| {
        let common = ["host", "--threads", "1", "--initial-peers", &address, "--dht-prefix", "tiny"];
        let member =
            Member::start_with(cache.path(), &[&common[..], &["--model", model.to_str().unwrap()], more].concat());
        let log = member.until("serving the blocks");
        member.stop();
        log
    };
    for (more, measured) in [(&[][..], true), (&[][..], false), (&["--measure"][..], true)] {
        let log = host(more);
        assert_eq!(log.contains("measured how fast a block is"), measured, "{log}");
        assert_eq!(log.contains("measured the way into the swarm"), measured, "{log}");
        assert!(log.contains("blocks=0:3"), "all blocks fit: {log}");
    }
    fs::write(cache.path().join("throughput.json"), "{").unwrap();
    let log = host(&["--blocks", "1:3"]);
    assert!(log.contains("measuring again") && log.contains("blocks=1:3"), "{log}");
    node.stop();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
