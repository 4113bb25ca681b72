//! Backends, plug-ins and memory: what cannot be is said in one sentence before anything is started.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use testkit::fixtures;

use crate::server::{corolla, model, tiny_llama};

/// Words after which a server would have been started.
const LISTENING: &str = "listening on";

/// A folder with the program alone in it, so that what else was built is not found, and with these scripts.
struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_corolla"), folder.path().join("corolla")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plug_in(&self, name: &str, script: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// The program, with the environment of the other tests.
    fn corolla(&self) -> Command {
        let mut command = Command::new(self.path("corolla"));
        for (name, _) in corolla().get_envs() {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        command
    }

    fn run(&self, config: &str, arguments: &[&str]) -> Output {
        let file = self.path("corolla.toml");
        fs::write(&file, config).unwrap();
        self.corolla().args(arguments).output().unwrap()
    }

    /// What every command that loads models says when it refuses, nothing having been started.
    fn refusal(&self, config: &str) -> String {
        let commands: [&[&str]; 4] = [
            &["check-config"],
            &["serve", "--listen", "127.0.0.1:0"],
            &["generate", "--prompt", "a"],
            &["score", "--prompt", "a"],
        ];
        let sentences = commands.map(|arguments| {
            let output = self.run(config, arguments);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {said}");
            assert!(said.starts_with("corolla: model ") && said.lines().count() == 1, "{arguments:?}: {said}");
            assert!(!said.contains(LISTENING) && !said.contains("panicked"), "{arguments:?}: {said}");
            said.replace(&self.folder.path().display().to_string(), "HOUSE")
        });
        // All say the same, but for memory, which may change from one run to the next.
        let words = sentences.each_ref().map(|said| said.replace(|c: char| c.is_ascii_digit() || c == '.', ""));
        assert!(words.iter().all(|said| *said == words[0]), "{sentences:?}");
        let [first, ..] = sentences;
        first
    }

    fn doctor(&self, config: &str) -> (Option<i32>, Value) {
        let output = self.run(config, &["doctor", "--json"]);
        let report = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    }
}

fn tiny(more: &str) -> String {
    model("m", &fixtures::path("models/tiny-llama"), more)
}

/// A plug-in that answers so when it is asked, and tells its arguments else.
fn answering(version: &str, backends: &Value) -> String {
    let answer = json!({"version": version, "backends": backends});
    format!("[ \"$1\" = probe ] && exec echo '{answer}'\necho \"took over: $*\"\necho \"for $COROLLA_PLUG_IN\"")
}

fn card(free: u64) -> Value {
    json!({"candle-cpu": {}, "candle-cuda": {"devices": [{"name": "A100", "total_bytes": 80e9 as u64, "free_bytes": free}]}})
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn a_backend_that_nobody_has_is_named_with_what_builds_it() {
    let house = House::new();
    assert_eq!(
        house.refusal(&tiny("backend = \"tch\"")),
        "corolla: model m: backend = \"tch\" cannot be used: this program does not have it, and there is no corolla-tch or \
         corolla-full in HOUSE; `make libtorch` builds it (cargo feature `libtorch`)\n"
    );
    let said = house.refusal(&tiny("blocks_backend = \"candle-cuda\""));
    assert!(said.contains("blocks_backend = \"candle-cuda\" cannot be used") && said.contains("make cuda"), "{said}");
}

#[test]
fn a_plug_in_that_cannot_be_used_is_named_with_its_own_words() {
    let loader = "echo \"$0: error while loading shared libraries: libcuda.so.1: cannot open shared object file: No such \
                  file or directory\" >&2; exit 127";
    for (script, words) in [
        (
            loader.to_owned(),
            "HOUSE/corolla-cuda does not start: error while loading shared libraries: libcuda.so.1: cannot open shared \
             object file: No such file or directory; install the driver of the NVIDIA card",
        ),
        (answering("99.0.0", &card(1)), "HOUSE/corolla-cuda is corolla 99.0.0, this is 0.1.0"),
        ("yes".to_owned(), "HOUSE/corolla-cuda said more than 65536 bytes, so it is no build of corolla"),
        ("echo hello".to_owned(), "HOUSE/corolla-cuda is no build of corolla: it said \"hello\""),
        (answering(VERSION, &json!({"candle-cpu": {}})), "HOUSE/corolla-cuda was built without it"),
        (
            answering(VERSION, &json!({"candle-cuda": {"error": "the driver is 11.8, 12.0 is needed"}})),
            "HOUSE/corolla-cuda has it, but: the driver is 11.8, 12.0 is needed",
        ),
        (answering(VERSION, &json!({"candle-cuda": {"devices": []}})), "candle-cuda sees no card; use another backend"),
    ] {
        let house = House::new();
        let said = house.plug_in("corolla-cuda", &script).refusal(&tiny("backend = \"candle-cuda\""));
        assert!(said.contains(&words.replace("0.1.0", VERSION)), "{said}");
    }
    let house = House::new();
    let old = json!({"tch": {"error": "libtorch 2.12.0 was found, 2.13 is needed; `make libtorch` fetches it"}});
    let said = house.plug_in("corolla-tch", &answering(VERSION, &old)).refusal(&tiny("backend = \"tch\""));
    assert!(said.contains("HOUSE/corolla-tch has it, but: libtorch 2.12.0 was found, 2.13 is needed"), "{said}");
}

#[test]
fn a_plug_in_that_can_takes_over_with_the_same_arguments() {
    let house = House::new();
    house.plug_in("corolla-cuda", "exit 1");
    house.plug_in("elsewhere/corolla-full", &answering(VERSION, &json!({"candle-cpu": {}, "tch": {}})));
    fs::write(house.path("corolla.toml"), tiny("")).unwrap();
    let arguments = ["generate", "--backend", "tch", "--prompt", "two words"];
    let output = house.corolla().env("COROLLA_BACKENDS", "elsewhere").args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said,
        "took over: generate --backend tch --prompt two words\nfor elsewhere/corolla-full\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Whoever took over does not look any further.
    let output = house
        .corolla()
        .env("COROLLA_BACKENDS", "elsewhere")
        .env("COROLLA_PLUG_IN", "something")
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("took another one's place"), "{said}");
}

#[test]
fn auto_goes_to_a_card_with_room() {
    let house = House::new();
    let arguments = ["generate", "--prompt", "a", "--max-new-tokens", "2"];
    house.plug_in("corolla-cuda", &answering(VERSION, &card(40_000_000_000)));
    let said = String::from_utf8(house.run(&tiny(""), &arguments).stdout).unwrap();
    assert!(said.starts_with("took over: generate"), "{said}");
    let said = String::from_utf8(house.run(&tiny("backend = \"candle-cpu\""), &arguments).stdout).unwrap();
    assert!(!said.contains("took over"), "{said}");
    // With no room on the card, with a card that is not there, and with a driver that is not there.
    for script in [answering(VERSION, &card(1000)), answering(VERSION, &json!({"candle-cuda": {}})), "exit 127".into()]
    {
        house.plug_in("corolla-cuda", &script);
        let output = house.run(&tiny(""), &arguments);
        assert!(output.status.success() && !output.stdout.starts_with(b"took over"), "{output:?}");
    }
    house.plug_in("corolla-cuda", &answering(VERSION, &card(40_000_000_000)));
    let said = house.refusal(&tiny("backend = \"candle-cuda\"\ndevice = \"cuda:1\""));
    assert!(said.contains("device = \"cuda:1\" is not there; candle-cuda sees cuda:0 (A100)"), "{said}");
}

#[test]
fn what_a_backend_or_a_model_cannot_do_is_said() {
    let house = House::new();
    let said = house.refusal(&tiny("backend = \"tch\"\ndtype = \"bf16\""));
    assert!(said.contains("dtype = \"bf16\" is not possible with backend = \"tch\", which computes in f32;"), "{said}");
    let said = house.refusal(&tiny("backend = \"candle-cpu\"\nblocks_backend = \"tch\"\ndtype = \"q8_0\""));
    assert!(said.contains("is not possible with blocks_backend = \"tch\", which computes in f32;"), "{said}");
    // 76 numbers a row.
    let said = house.refusal(&tiny("dtype = \"q4_0\""));
    assert!(said.contains("rows of this model are no multiples of 32"), "{said}");
    let able = cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("avx512f");
    if able {
        assert!(house.run(&tiny("kernels = \"avx512\""), &["check-config"]).status.success());
    } else {
        let said = house.refusal(&tiny("kernels = \"avx512\""));
        assert!(said.contains("kernels = \"avx512\" needs avx512f, which this processor lacks"), "{said}");
    }
}

/// A Llama of half a trillion numbers in bf16, as far as headers tell: a file with nothing in it but holes.
fn huge(folder: &Path) {
    let (hidden, inner, blocks) = (16_384u64, 65_536, 126);
    let mut tensors = serde_json::Map::new();
    let mut end = 0;
    let mut tensor = |name: String, shape: &[u64]| {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        tensors.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    };
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        tensor(name.to_owned(), &[512, hidden]);
    }
    tensor("model.norm.weight".to_owned(), &[hidden]);
    for block in 0..blocks {
        for (name, rows, cols) in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", 1024, hidden),
            ("self_attn.v_proj", 1024, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            tensor(format!("model.layers.{block}.{name}.weight"), &[rows, cols]);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensor(format!("model.layers.{block}.{norm}.weight"), &[hidden]);
        }
    }
    let header = serde_json::to_vec(&tensors).unwrap();
    let mut file = fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": 128,
        "num_key_value_heads": 8, "num_hidden_layers": blocks, "vocab_size": 512, "rms_norm_eps": 1e-5,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixtures::path("models/tiny-llama").join(file), folder.join(file)).unwrap();
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_it_is_loaded() {
    let house = House::new();
    let folder = house.path("huge");
    fs::create_dir(&folder).unwrap();
    huge(&folder);
    let huge = |more: &str| model("m", &folder, more);
    let said = house.refusal(&huge("dtype = \"bf16\""));
    assert!(
        said.starts_with("corolla: model m: not enough memory: bf16 needs 990 GB of memory (956 GB of weights"),
        "{said}"
    );
    assert!(said.contains(" is free; set ") && said.contains("blocks = \"swarm\" (needs "), "{said}");
    let said = house.refusal(&huge(""));
    assert!(said.contains("q4_0, the narrowest form, needs 303 GB of memory"), "{said}");
    let (code, report) = house.doctor(&huge(""));
    let found = &report["models"][0];
    assert!(code == Some(2) && found["error"].as_str().unwrap().contains("not enough memory"), "{report}");
    assert!(found["dtypes"].as_array().unwrap().iter().all(|row| row["fits"] == false), "{report}");
    for fine in ["blocks = \"swarm\"", "memory_check = false"] {
        let output = house.run(&huge(fine), &["check-config"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // A model that fits is not served either where its neighbour does not.
    let said = house.refusal(&format!("{}{}", huge(""), tiny("").replace("\"m\"", "\"small\"")));
    assert!(said.starts_with("corolla: model m: not enough memory"), "{said}");
}

/// 3 blocks x 2 heads of 8 x keys and values x 4 bytes: 384 bytes a position.
#[test]
fn a_cache_in_bytes_holds_what_fits_over_the_blocks_that_run_here() {
    let house = House::new();
    for (keys, size) in [("cache_bytes = \"6MB\"", 6), ("cache_tokens = 15625", 6), ("", 12)] {
        let output = house.run(&tiny(keys), &["check-config"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(&format!(", {size} MB of KV cache at most")), "{keys}: {said}");
    }
}

/// Of 32,768 positions, 2 bytes a number, or 1 and 4 for each head's scale.
#[test]
fn keys_and_values_take_what_their_type_takes() {
    let house = House::new();
    for (typed, flags) in [("kv_cache = \"bf16\"", &[][..]), ("", &["--kv-cache", "bf16"])] {
        let output = house.run(&tiny(typed), &[&["check-config"], flags].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(", 6 MB of KV cache in bf16 at most"), "{said}");
    }
    let report = house.doctor(&tiny("kv_cache = \"q8\"")).1;
    let bytes = 32_768 * 3 * 2 * 2 * (8 + 4);
    let rows = report["models"][0]["dtypes"].as_array().unwrap();
    let mut able = rows.iter().filter(|row| row["fits"] == true).peekable();
    assert!(able.peek().is_some() && able.all(|row| row["cache_bytes"] == bytes), "{report}");
    let generated = house.run(&tiny("kv_cache = \"q8\""), &["generate", "--prompt", "a", "--max-new-tokens", "9"]);
    assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stderr));
}

#[test]
fn the_caches_of_several_models_add_up() {
    let house = House::new();
    // Each takes two thirds of what is free: 3 blocks x 2 heads of 8 x keys and values x 4 bytes a position.
    let free = house.doctor(&tiny("")).1["memory"]["free_bytes"].as_u64().unwrap();
    let positions = free / 3 * 2 / (3 * 2 * 8 * 2 * 4);
    let big =
        |id: &str| tiny(&format!("dtype = \"f32\"\ncache_tokens = {positions}")).replace("\"m\"", &format!("\"{id}\""));
    assert!(house.run(&big("one"), &["check-config"]).status.success());
    let output = house.run(&format!("{}{}", big("one"), big("two")), &["serve", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains(LISTENING)), (Some(2), false), "{said}");
    assert!(said.starts_with("corolla: model two: not enough memory") && said.contains("beside the"), "{said}");
    // One command, one model.
    let both = format!("{}{}", big("one"), big("two"));
    assert!(house.run(&both, &["generate", "--prompt", "a", "--max-new-tokens", "1"]).status.success());
}

#[test]
fn a_doctor_tells_what_there_is_and_what_was_chosen() {
    let house = House::new();
    house
        .plug_in("corolla-tch", &answering(VERSION, &json!({"candle-cpu": {}, "tch": {"library": "libtorch 2.13.0"}})));
    house.plug_in("corolla-cuda", "echo 'libcuda.so.1: cannot open shared object file' >&2; exit 127");
    let nowhere = model("gone", Path::new("nowhere.gguf"), "");
    let (code, report) = house.doctor(&format!("{}{nowhere}", tiny("dtype = \"f32\"")));
    assert_eq!(code, Some(2));
    let backends: Vec<&str> =
        report["backends"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(backends, ["candle-cuda", "candle-cpu", "tch"]);
    let words = report["backends"][0]["error"].as_str().unwrap();
    assert!(words.contains("libcuda.so.1: cannot open shared object file"), "{words}");
    assert_eq!(report["backends"][1]["built_in"], true);
    assert_eq!(report["backends"][2]["library"], "libtorch 2.13.0");
    assert!(report["backends"][2]["plug_in"].as_str().unwrap().ends_with("corolla-tch"));
    let choice = &report["models"][0]["choice"];
    assert_eq!((choice["backend"].as_str(), choice["dtype"].as_str()), (Some("candle-cpu"), Some("f32")));
    let rows = report["models"][0]["dtypes"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["dtype"] == name).unwrap();
    assert_eq!(row("q8_0")["total_bytes"], Value::Null);
    assert!(row("f32")["chosen"] == true && row("bf16")["chosen"] == false);
    // 2 x 512 x 32 at the ends; 3 blocks of 32 x 32 x 2 + 16 x 32 x 2 + 76 x 32 x 3 and two norms; the last norm.
    let numbers = 2 * 512 * 32 + 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 76 * 32 + 2 * 32) + 32;
    assert_eq!(row("f32")["weights_bytes"], 4 * numbers);
    let gone = report["models"][1]["error"].as_str().unwrap();
    assert!(gone.contains("nowhere.gguf"), "{gone}");

    let (code, report) = house.doctor(&tiny("backend = \"tch\""));
    assert_eq!(code, Some(0), "{report}");
    assert!(report["models"][0]["choice"]["program"].as_str().unwrap().ends_with("corolla-tch"), "{report}");
}

#[test]
fn a_doctor_works_without_a_configuration_and_in_words() {
    let house = House::new();
    let output = house.corolla().arg("doctor").output().unwrap();
    let (said, fault) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("memory ") && said.contains("model        smollm2-135m-instruct (default)"), "{said}");
    assert!(fault.contains("models/SmolLM2-135M-Instruct.Q4_1.gguf"), "{fault}");

    let output = house.run(&tiny("dtype = \"bf16\""), &["doctor"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for words in ["candle-cpu   built in", "tch          no: this program does not have it", "  <- chosen", "as f32 "] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn the_chat_model_is_computed_as_its_file_is() {
    let house = House::new();
    let (code, report) = house.doctor(&model("chat", &fixtures::smollm2(), ""));
    assert_eq!(code, Some(0), "{report}");
    let choice = &report["models"][0]["choice"];
    assert_eq!((choice["backend"].as_str(), choice["dtype"].as_str()), (Some("candle-cpu"), Some("stored")));
}

#[test]
fn models_and_backends_can_be_set_by_environment_and_flag() {
    let house = House::new();
    let path = fixtures::path("models/tiny-llama");
    let models = format!("[{{id=\"env\",path=\"{}\",backend=\"candle-cpu\",dtype=\"f32\"}}]", path.display());
    let output = house.corolla().arg("check-config").env("COROLLA_MODELS", &models).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("by candle-cpu in f32"), "{said}{:?}", output.stderr);
    let output =
        house.corolla().args(["check-config", "--dtype", "bf16"]).env("COROLLA_MODELS", &models).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("by candle-cpu in bf16"), "{:?}", output.stderr);
}

#[test]
fn a_probe_is_one_json_object() {
    let house = House::new();
    let output = house.corolla().arg("probe").output().unwrap();
    let probe: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(probe["version"], VERSION);
    assert!(probe["backends"]["candle-cpu"].is_object(), "{probe}");
    // The configuration of the tests is right.
    assert!(house.run(&tiny_llama(), &["check-config"]).status.success());
}
