//! Bad input of every kind: a clear error in the documented shape, the process alive, its memory bounded.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;
use testkit::fixtures;

use crate::server::{Server, model, run, tiny_llama};

/// More than the tiny model and any request may need, far less than a request that is believed blindly would take.
#[cfg(target_os = "linux")]
const MEMORY_MIB: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_request_are_named() {
    let mut server = Server::start(&format!("[sessions]\nidle_seconds = 1\n{}", tiny_llama())).await;
    let gone = "KeyError: 'Session 00112233445566778899aabbccddeeff expired or does not exist'";
    let both = "AssertionError: please set max_length or max_new_tokens (not both)";
    let long = "a ".repeat(500_000);
    let cases: [(&[(&str, &str)], &str); 12] = [
        (&[("inputs", "a"), ("max_new_tokens", "1"), ("session_id", "00112233445566778899aabbccddeeff")], gone),
        (&[("inputs", "a")], both),
        (&[("inputs", "a"), ("max_new_tokens", "1"), ("max_length", "9")], both),
        (&[("inputs", "a"), ("max_new_tokens", "many")], "ValueError: "),
        (&[("inputs", "a"), ("max_new_tokens", "1.0")], "ValueError: "),
        (&[("inputs", "a"), ("max_new_tokens", "-5")], "ValueError: "),
        (&[("inputs", "a"), ("max_new_tokens", "99999999999999999999999")], "ValueError: "),
        (&[("inputs", "a"), ("max_new_tokens", "4000000000")], "ValueError: Maximum length exceeded: prefix 0"),
        (&[("inputs", "a"), ("max_length", "1")], "AssertionError: Provided max_length is less than prefix size: 1 < "),
        (&[("inputs", ""), ("max_new_tokens", "1")], "ValueError: inputs must not be empty"),
        (&[("inputs", &long), ("max_new_tokens", "1")], "ValueError: Maximum length exceeded: prefix 0"),
        (
            &[("inputs", "a"), ("max_new_tokens", "1"), ("do_sample", "1"), ("top_k", "5"), ("top_p", "0.5")],
            "ValueError: You have to provide only top_k or top_p for sampling",
        ),
    ];
    for (form, message) in cases {
        let (reply, _) = server.generate(form).await;
        let text = reply["traceback"].as_str().unwrap_or_default();
        assert!(reply["ok"] == false && text.starts_with(message), "{:?}: {reply}", &form[1..]);
        assert!(!text.contains('\n') && text.len() < 400, "one sentence: {text}");
    }
    // An expired session.
    let session = server.open("max_length=64").await;
    server
        .until("the session expires", async || {
            let (reply, _) =
                server.generate(&[("inputs", "a"), ("max_new_tokens", "1"), ("session_id", &session)]).await;
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
            reply["traceback"].as_str().is_some_and(|t| t.contains(&format!("Session {session} expired")))
        })
        .await;
    // Invalid UTF-8, a wrong method, an unknown path.
    let url = format!("{}/api/v1/generate", server.base);
    let form = "application/x-www-form-urlencoded";
    let raw = server.http.post(&url).header("content-type", form).body("inputs=%ff%fe&max_new_tokens=1");
    let reply: Value = raw.send().await.unwrap().json().await.unwrap();
    assert!(reply["ok"] == false && reply["traceback"].as_str().unwrap().contains("UTF-8"), "{reply}");
    for (path, status) in [("/api/v1/generate", 405), ("/api/v1/nothing", 404)] {
        let (found, text) = server.get(path).await;
        assert_eq!(found, status);
        assert!(serde_json::from_str::<Value>(&text).unwrap()["message"].is_string(), "{text}");
    }
    assert!(server.alive());
    #[cfg(target_os = "linux")]
    assert!(server.memory() < MEMORY_MIB, "{} MiB", server.memory());
}

/// Anything a stranger may send.
fn request() -> impl Strategy<Value = (String, String, Vec<u8>, &'static str)> {
    let name = prop::sample::select(vec![
        "inputs",
        "max_length",
        "max_new_tokens",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "session_id",
        "model",
        "seed",
        "stop_sequence",
        "repetition_penalty",
        "messages",
        "stream",
        "",
    ]);
    let value = prop_oneof![
        "[ -~]{0,12}",
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        "%[0-9a-fA-F]{2}",
        ".{0,8}",
        prop::sample::select(vec!["nan", "inf", "-1", "0", "1", "true", "1_0", "[]", "{}", "null"])
            .prop_map(str::to_owned),
    ];
    let pairs = prop::collection::vec((name, value), 0..6).prop_map(|pairs| {
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    });
    let method = prop::sample::select(vec!["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]);
    let path = prop_oneof![
        4 => prop::sample::select(vec![
            "/api/v1/generate", "/api/v1/open_inference_session", "/api/v1/close_inference_session", "/api/v1/models",
            "/v1/chat/completions", "/health/ready", "/metrics", "/", "/docs",
        ]).prop_map(str::to_owned),
        1 => "/[a-zA-Z0-9./_-]{0,20}",
    ];
    let body = prop_oneof![
        3 => pairs.clone().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => "\\{\"[a-z_]{1,12}\": ?[\\[\\]{}0-9a-z\",:]{0,30}\\}".prop_map(String::into_bytes),
    ];
    let media = prop::sample::select(vec![
        "application/x-www-form-urlencoded",
        "application/json",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
    ]);
    let query = pairs.prop_map(|q| {
        q.bytes().map(|b| format!("%{b:02x}")).collect::<String>().replace("%26", "&").replace("%3d", "=")
    });
    (method, path, query, body, media)
        .prop_map(|(method, path, query, body, media)| (method.to_owned(), format!("{path}?{query}"), body, media))
}

#[test]
fn two_hundred_random_requests_change_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Replies are kept short: what is tested is the door.
    let config = format!("[sessions]\nmax_length = 64\ndefault_length = 64\n{}", tiny_llama());
    let mut server = runtime.block_on(Server::start(&config));
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&request(), |(method, path, body, media)| {
        runtime.block_on(async {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let request = server.http.request(method, format!("{}{path}", server.base));
            let response = request.header("content-type", media).body(body).send().await;
            let response = response.map_err(|e| TestCaseError::fail(e.to_string()))?;
            let status = response.status().as_u16();
            prop_assert!([200, 204, 400, 404, 405, 413, 415, 422].contains(&status), "status {status}");
            let text = response.bytes().await.map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert!(!String::from_utf8_lossy(&text).contains("panicked"));
            Ok(())
        })
    });
    outcome.unwrap();
    assert!(server.alive());
    let form = [("inputs", "Hello"), ("max_new_tokens", "4")];
    let said = runtime.block_on(server.outputs(&form));
    assert!(!said.is_empty());
    #[cfg(target_os = "linux")]
    assert!(server.memory() < MEMORY_MIB, "{} MiB", server.memory());
}

/// A copy of a fixture folder in which one file was changed.
fn damaged(file: &str, damage: impl Fn(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures::path("models/tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let target = folder.path().join(file);
    fs::write(&target, damage(fs::read(&target).unwrap())).unwrap();
    folder
}

/// What `check-config` says of a model that cannot be loaded.
fn refusal(path: &Path, more: &str) -> String {
    let output = run(&model("m", path, more), &["check-config"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("corolla: ") && !said.contains("panicked"), "{said}");
    said
}

#[test]
fn damaged_models_are_refused_before_anything_starts() {
    let truncated = damaged("config.json", |bytes| bytes[..bytes.len() / 2].to_vec());
    assert!(refusal(truncated.path(), "").contains("config.json"));

    let family = damaged("config.json", |bytes| {
        String::from_utf8(bytes)
            .unwrap()
            .replace("LlamaForCausalLM", "MambaForCausalLM")
            .replace("\"llama\"", "\"mamba\"")
            .into_bytes()
    });
    let said = refusal(family.path(), "");
    assert!(said.contains("mamba") || said.contains("Mamba"), "{said}");
    assert!(said.contains("llama") && said.contains("bloom"), "the known families are named: {said}");

    let shard = fs::read_dir(fixtures::path("models/tiny-llama")).unwrap().map(|e| e.unwrap().file_name());
    let shard = shard.filter_map(|n| n.into_string().ok()).find(|n| n.ends_with(".safetensors")).unwrap();
    for damage in [
        |b: Vec<u8>| b[..b.len() / 2].to_vec(),
        |mut b: Vec<u8>| {
            b[..8].fill(0xff);
            b
        },
        |_| Vec::new(),
    ] {
        let broken = damaged(&shard, damage);
        assert!(refusal(broken.path(), "").contains(&shard));
    }

    let gguf = fs::read(fixtures::path("models/tiny-llama.f16.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    for bytes in [
        &gguf[..gguf.len() / 2],
        &gguf[..100],
        &gguf[..3],
        b"GGUF\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        fs::write(&file, bytes).unwrap();
        assert!(refusal(&file, "").contains("broken.gguf"));
    }
}

#[test]
fn what_this_build_cannot_do_is_said_with_the_feature_that_could() {
    let tiny = fixtures::path("models/tiny-llama");
    assert!(refusal(&tiny, "backend = \"tch\"").contains("libtorch"));
    assert!(refusal(&tiny, "backend = \"candle-cuda\"").contains("cuda"));
    assert!(refusal(&tiny, "dtyp = \"f32\"").contains("dtyp is no key"));
}

#[test]
fn blocks_that_a_model_does_not_have_are_refused_and_those_it_has_are_placed() {
    let tiny = fixtures::path("models/tiny-llama");
    let placed = |range: &str| {
        let output = run(&model("m", &tiny, &format!("block_range = \"{range}\"")), &["check-config"]);
        String::from_utf8(output.stdout).unwrap()
    };
    let said = placed("0:1");
    let blocks = said.split(", ").find_map(|words| words.split_once(" blocks (")).unwrap().0.parse::<usize>().unwrap();
    assert!(said.contains(&format!("(0:1 here, 1:{blocks} from the swarm)")), "{said}");
    assert!(placed(&format!("0:{blocks}")).contains("(all here)"));
    let said = refusal(&tiny, &format!("block_range = \"1:{}\"", blocks + 1));
    assert!(said.contains(&format!("model m: block_range = \"1:{}\" goes beyond", blocks + 1)), "{said}");
    assert!(said.contains(&format!("write \"0:{blocks}\" or a part of it")), "{said}");
}
