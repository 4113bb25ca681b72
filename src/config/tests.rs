//! Faults in a configuration file, and the order of the layers.

use corolla_domain::{
    fit::{Dtype, Kernels, KvType, Screen},
    model::BlockRange,
};

use super::*;
use crate::backend::Backend;

fn settings(text: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("corolla.toml");
    std::fs::write(&file, text).unwrap();
    load(Some(&file), &Overrides::default()).map_err(|fault| fault.replace(&file.display().to_string(), "FILE"))
}

fn with_model(text: &str) -> Result<Settings, String> {
    settings(&format!("{text}\n[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n"))
}

#[test]
fn a_file_overrides_the_defaults_and_leaves_the_rest() {
    let settings = with_model("listen = \"0.0.0.0:9000\"\n[sessions]\nidle_seconds = 7").unwrap();
    assert_eq!(settings.listen.to_string(), "0.0.0.0:9000");
    assert_eq!(settings.limits, Limits { idle: Duration::from_secs(7), ..Limits::default() });
    assert_eq!((settings.default_model, settings.models.len()), ("m".into(), 1));
}

#[test]
fn prefixes_are_kept_where_those_who_ask_are_told_apart() {
    let kept = |text| with_model(text).unwrap().limits.prefixes;
    assert_eq!(kept(""), Limits::default().prefixes);
    assert_eq!(kept("access = \"open\""), 0);
    assert_eq!(kept("access = \"open\"\n[sessions]\nprefix_cache = 3"), 3);
    assert_eq!(kept("[sessions]\nprefix_cache = 0"), 0);
    let far = "[[models]]\nid = \"far\"\npath = \"Cargo.toml\"\nblocks = \"swarm\"";
    assert_eq!(kept(far), 0, "the caches of a swarm are other people's");
    assert_eq!(kept(&format!("[sessions]\nprefix_cache = 3\n{far}")), 3);
}

#[test]
fn a_fault_names_key_value_and_fix() {
    for (text, fault) in [
        (
            "listn = 1",
            "listn is no key of the configuration in FILE; the keys here are: \
             listen, default_model, sessions, limits, embeddings, access, api_keys, cors, log_format, models",
        ),
        (
            "listen = \"here\"",
            "listen = \"here\" is no address; write an IP address and a port, e.g. \"127.0.0.1:8000\"",
        ),
        ("default_model = \"x\"", "default_model = \"x\" is none of the models; there is: m"),
        ("[sessions]\nmax_sessions = 0", "sessions.max_sessions = 0 is out of range; it may be 1 to 1000000"),
        ("[sessions]\nprefix_cache = 100001", "sessions.prefix_cache = 100001 is out of range; it may be 0 to 100000"),
        (
            "[sessions]\nstore = \"disk\"",
            "sessions.store = \"disk\" is no store; write \"memory\" or \"redis://host:port\"",
        ),
        (
            "[embeddings]\npooling = \"max\"",
            "embeddings.pooling = \"max\" is not possible in FILE; it may be: mean, last",
        ),
        (
            "[limits]\nqueue = \"long\"",
            "limits.queue = string \"long\" does not fit in FILE; it must be a whole number",
        ),
    ] {
        let found = with_model(text).unwrap_err();
        assert_eq!(found, fault);
    }
}

#[test]
fn a_models_faults_name_the_model() {
    let model = |text: &str| settings(&format!("[[models]]\n{text}")).unwrap_err();
    assert_eq!(
        model("id = \"a b\"\npath = \"x\""),
        "models[0].id = \"a b\" is no name; use up to 128 of letters, digits and - _ . / :"
    );
    assert!(
        model("id = \"a\"\npath = \"nowhere.gguf\"")
            .starts_with("models[0].path = \"nowhere.gguf\": there is no such file")
    );
    assert!(model("id = \"a\"").contains("models.0.path is missing"), "{}", model("id = \"a\""));
    assert_eq!(
        model("id = \"a\"\npath = \"Cargo.toml\"\nbackend = \"cpu\""),
        "models.0.backend = \"cpu\" is not possible in FILE; it may be: auto, candle-cpu, candle-cuda, tch"
    );
    let twice = "id = \"a\"\npath = \"Cargo.toml\"\n";
    assert!(model(&format!("{twice}[[models]]\n{twice}")).contains("used twice"));
}

#[test]
fn broken_toml_is_located() {
    let fault = settings("listen = ").unwrap_err();
    assert!(fault.contains("FILE") && fault.contains("line 1"), "{fault}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let fault = load(Some(Path::new("nowhere.toml")), &Overrides::default()).unwrap_err();
    assert_eq!(fault, "there is no configuration file nowhere.toml");
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("corolla.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:1\"\n[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n").unwrap();
    let flags = Overrides {
        listen: Some("127.0.0.1:2".into()),
        backend: Some(TypedBackend::CandleCpu),
        dtype: Some(TypedDtype::F32),
        kv_cache: Some(TypedKvCache::Bf16),
        ..Overrides::default()
    };
    let settings = load(Some(&file), &flags).unwrap();
    assert_eq!(settings.listen.port(), 2);
    let compute = &settings.models[0].compute;
    assert_eq!((compute.backend, compute.dtype), (Some(Backend::CandleCpu), Some(Dtype::F32)));
    assert_eq!(compute.kv_type, KvType::Bf16);
}

#[test]
fn pins_are_read_and_what_contradicts_them_is_named() {
    let (a, b) = ("QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY", "QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5");
    let swarm = |keys: &str| {
        settings(&format!(
            "[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\nblocks = \"swarm\"\n[models.swarm]\n{keys}\n"
        ))
    };
    let fine = swarm(&format!("pinned_servers = [\"0:2@{a}\", \"2:4@{b}\"]")).unwrap();
    let pins: Vec<String> = fine.models[0].swarm.pinned_servers.iter().map(ToString::to_string).collect();
    assert_eq!(pins, [format!("0:2@{a}"), format!("2:4@{b}")]);
    assert_eq!(swarm("listen = [\"/ip4/0.0.0.0/tcp/0\"]").unwrap().models[0].swarm.listen, ["/ip4/0.0.0.0/tcp/0"]);
    let fault = swarm("listen = [\"0.0.0.0:31401\"]").unwrap_err();
    assert!(fault.starts_with("models[0].swarm.listen has \"0.0.0.0:31401\"; write"), "{fault}");
    for (keys, words) in [
        ("pinned_servers = [\"0:2\"]".to_owned(), "\"0:2\" is no pin; write".to_owned()),
        (
            format!("pinned_servers = [\"0:2@{a}\", \"1:3@{b}\"]"),
            format!("\"0:2@{a}\" and \"1:3@{b}\" both pin block 1; pin each block once"),
        ),
        (format!("pinned_servers = [\"0:2@{a}\"]\nblocked_servers = [\"{a}\"]"), "or drop the pin".to_owned()),
        (format!("pinned_servers = [\"0:2@{a}\"]\nallowed_servers = [\"{b}\"]"), "or drop the pin".to_owned()),
    ] {
        let fault = swarm(&keys).unwrap_err();
        assert!(fault.starts_with("models[0].swarm.pinned_servers") && fault.contains(&words), "{fault}");
    }
}

#[test]
fn what_computes_is_read_and_what_contradicts_it_is_named() {
    let model = |keys: &str| settings(&format!("[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n{keys}\n"));
    let open = model("").unwrap().models.remove(0).compute;
    let left_open = ComputeSettings {
        backend: None,
        blocks_backend: None,
        dtype: None,
        card: None,
        head_on_processor: false,
        kernels: None,
        exact_activations: false,
        screen: None,
        kv_type: KvType::F32,
        check_memory: true,
    };
    assert_eq!(open, left_open);
    let all = "backend = \"candle-cuda\"\ndevice = \"cuda:1\"\nhead = \"cpu\"\nblocks_backend = \"candle-cpu\"\n\
               dtype = \"q8_0\"\nkernels = \"avx2\"\nactivations = \"f32\"\nscreen = \"int8\"\nkv_cache = \"q8\"\n\
               memory_check = false";
    assert_eq!(
        model(all).unwrap().models.remove(0).compute,
        ComputeSettings {
            backend: Some(Backend::CandleCuda),
            blocks_backend: Some(Backend::CandleCpu),
            dtype: Some(Dtype::Q8_0),
            card: Some(1),
            head_on_processor: true,
            kernels: Some(Kernels::Avx2),
            exact_activations: true,
            screen: Some(Screen::Int8),
            kv_type: KvType::Q8,
            check_memory: false,
        }
    );
    let cuda = "is for backend = \"candle-cuda\" only; leave it out, or use that backend";
    for (keys, fault) in [
        ("device = \"0\"", "models[0].device = \"0\" is no device; write \"cuda:0\" for the first card".to_owned()),
        (
            "device = \"cuda:+1\"",
            "models[0].device = \"cuda:+1\" is no device; write \"cuda:0\" for the first card".into(),
        ),
        ("backend = \"tch\"\ndevice = \"cuda:0\"", format!("models[0].device {cuda}")),
        ("backend = \"candle-cpu\"\nhead = \"cpu\"", format!("models[0].head {cuda}")),
        (
            "backend = \"tch\"\nscreen = \"int8\"",
            "models[0].screen is for backend = \"candle-cpu\" only; leave it out, or use that backend".into(),
        ),
        (
            "backend = \"tch\"\nblocks_backend = \"candle-cpu\"\nscreen = \"int4\"",
            "models[0].screen is for backend = \"candle-cpu\" only; leave it out, or use that backend".into(),
        ),
        (
            "backend = \"tch\"\nkernels = \"scalar\"",
            "models[0].kernels is for backend = \"candle-cpu\" only; leave it out, or use that backend".into(),
        ),
        (
            "backend = \"candle-cpu\"\nblocks_backend = \"tch\"\nkv_cache = \"bf16\"",
            "models[0].kv_cache = \"bf16\" is for backend = \"candle-cpu\" only; leave it out, or use that backend"
                .into(),
        ),
        ("kv_cache = \"q4\"", "models.0.kv_cache = \"q4\" is not possible in FILE; it may be: f32, bf16, q8".into()),
        (
            "blocks_backend = \"auto\"",
            "models.0.blocks_backend = \"auto\" is not possible in FILE; it may be: candle-cuda, candle-cpu, tch"
                .into(),
        ),
        (
            "dtype = \"q3\"",
            "models.0.dtype = \"q3\" is not possible in FILE; it may be: auto, f32, bf16, f16, q8_0, q5_1, q4_1, q4_0"
                .into(),
        ),
    ] {
        assert_eq!(model(keys).unwrap_err(), fault);
    }
    for harmless in
        ["backend = \"tch\"\nkv_cache = \"f32\"", "backend = \"tch\"\nblocks = \"swarm\"\nkv_cache = \"q8\""]
    {
        model(harmless).unwrap();
    }
}

#[test]
fn a_range_of_blocks_is_read_and_the_swarm_has_the_rest() {
    let model = |keys: &str| settings(&format!("[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n{keys}\n"));
    for (keys, placement) in [
        ("block_range = \"0:2\"", "0:2 here, 2:6 from the swarm"),
        ("block_range = \" 2 : 4 \"\nblocks = \"local\"", "2:4 here, 0:2 and 4:6 from the swarm"),
        ("block_range = \"4:6\"", "4:6 here, 0:4 from the swarm"),
        ("block_range = \"0:6\"", "all here"),
        ("", "all here"),
        ("blocks = \"swarm\"", "all from the swarm"),
    ] {
        assert_eq!(model(keys).unwrap().models[0].placement(6), placement, "{keys}");
    }
    for text in ["", "2", "2:2", "4:2", "a:b", "0:2:4", "-1:2", "0:"] {
        let fault = model(&format!("block_range = \"{text}\"")).unwrap_err();
        assert!(
            fault.starts_with(&format!("models[0].block_range = \"{text}\" is no run of blocks; write")),
            "{fault}"
        );
    }
    let fault = model("block_range = \"0:2\"\nblocks = \"swarm\"").unwrap_err();
    assert_eq!(
        fault,
        "models[0].block_range = \"0:2\" is for blocks = \"local\": these run here and the swarm runs the rest; with \
         blocks = \"swarm\" leave it out"
    );
}

#[test]
fn a_host_is_read_and_needs_a_swarm_and_blocks() {
    let model = |keys: &str| settings(&format!("[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n{keys}\n"));
    let peer = "/ip4/127.0.0.1/tcp/31400/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY";
    let swarm = format!("[models.swarm]\ninitial_peers = [\"{peer}\"]\n");
    let read =
        model(&format!("{swarm}[models.host]\nupdate_period = \"15\"\ndrain = \"2m\"")).unwrap().models.remove(0);
    assert_eq!(
        read.host,
        Some(HostSettings {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            identity: None,
            reach: crate::wiring::Reach::Ask,
            public_name: None,
            num_blocks: None,
            update_period: Duration::from_secs(15),
            drain: Duration::from_secs(120),
        })
    );
    assert!(read.ends);
    for (keys, fault) in [
        ("[models.host]".to_owned(), "models[0].host needs a swarm to serve"),
        (format!("blocks = \"swarm\"\n{swarm}[models.host]"), "models[0].host serves the blocks that run here"),
        (
            format!("{swarm}[models.host]\ndrain = \"long\""),
            "models[0].host.drain = \"long\" is no time; write 0s to 1h",
        ),
        (format!("{swarm}[models.host]\nnum_blocks = 0"), "models[0].host.num_blocks = 0 serves nothing"),
        (format!("{swarm}[models.host]\nlisten = []"), "models[0].host.listen is empty"),
        ("[models.swarm]\njoin = \"corolla1-AAAA\"".to_owned(), "models[0].swarm.join: the join token is damaged"),
    ] {
        let found = model(&keys).unwrap_err();
        assert!(found.starts_with(fault), "{found}");
    }
}

#[test]
fn the_flags_of_a_host_change_the_model_that_is_configured_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("corolla.toml");
    let peer = "/ip4/127.0.0.1/tcp/31400/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY";
    let models = |hosted: &[bool]| {
        let model = |(at, hosted): (usize, &bool)| {
            let host = if *hosted { "[models.host]\npublic_name = \"me\"\n" } else { "" };
            format!(
                "[[models]]\nid = \"m{at}\"\npath = \"Cargo.toml\"\n[models.swarm]\ninitial_peers = [\"{peer}\"]\n{host}"
            )
        };
        std::fs::write(&file, hosted.iter().enumerate().map(model).collect::<String>()).unwrap();
        let host = HostFlags {
            blocks: Some("1:2".into()),
            listen: Some(vec!["/ip4/0.0.0.0/tcp/1".into()]),
            ..HostFlags::default()
        };
        load(Some(&file), &Overrides { host: Some(host), ..Overrides::default() })
    };
    let read = models(&[false, true]).unwrap();
    assert_eq!((read.models.len(), read.default_model.0.as_str()), (1, "m1"));
    let model = &read.models[0];
    assert!(!model.ends && model.block_range == BlockRange::new(1, 2));
    let host = model.host.clone().unwrap();
    assert_eq!((host.public_name.as_deref(), host.listen), (Some("me"), vec!["/ip4/0.0.0.0/tcp/1".to_owned()]));
    let written = "[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n[models.swarm]\n";
    std::fs::write(&file, format!("{written}initial_peers = [\"{peer}\"]\n[models.host]\nnum_blocks = 2\n")).unwrap();
    for (typed, count) in [(None, Some(2)), (Some(None), None), (Some(Some(3)), Some(3))] {
        let host = Some(HostFlags { num_blocks: typed, ..HostFlags::default() });
        let read = load(Some(&file), &Overrides { host, ..Overrides::default() }).unwrap();
        assert_eq!(read.models[0].host.as_ref().unwrap().num_blocks, count, "{typed:?}");
    }
    assert!(models(&[false]).unwrap_err().contains("which model's blocks?"));
    assert!(models(&[true, true]).unwrap_err().contains("models m0 and m1 both have a [models.host] table"));
}

#[test]
fn a_cache_has_one_size() {
    let model = |keys: &str| settings(&format!("[[models]]\nid = \"m\"\npath = \"Cargo.toml\"\n{keys}"));
    let sizes = |keys: &str| model(keys).map(|it| (it.models[0].cache_tokens, it.models[0].cache_bytes)).unwrap();
    assert_eq!(sizes(""), (model::CACHE_TOKENS, None));
    assert_eq!(sizes("cache_tokens = 7"), (7, None));
    for (text, bytes) in [("2GiB", 2 << 30), ("3 MiB", 3 << 20), ("4MB", 4_000_000), ("5 GB", 5_000_000_000)] {
        assert_eq!(sizes(&format!("cache_bytes = \"{text}\"")).1, Some(bytes));
    }
    assert_eq!(
        model("cache_tokens = 7\ncache_bytes = \"2GiB\"").unwrap_err(),
        "models[0] has both cache_tokens and cache_bytes, two sizes of one KV cache; keep one"
    );
    for wrong in ["", "2", "GiB", "0GiB", "1.5GiB", "-1GiB", "2gib", "99999999999GiB"] {
        let fault = model(&format!("cache_bytes = \"{wrong}\"")).unwrap_err();
        assert!(fault.starts_with(&format!("models[0].cache_bytes = \"{wrong}\" is no size; write")), "{fault}");
    }
}

const KEY: &str =
    "[[api_keys]]\nname = \"ann\"\nsha256 = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n";

#[test]
fn keys_are_wanted_where_others_reach_the_server() {
    let keys = |text: &str| with_model(text).and_then(|settings| settings.guard.keys(settings.listen));
    assert_eq!(keys(""), Ok(Vec::new()));
    assert_eq!(keys("listen = \"[::1]:80\""), Ok(Vec::new()));
    let fault = keys("listen = \"0.0.0.0:80\"").unwrap_err();
    assert_eq!(
        fault,
        "listen = \"0.0.0.0:80\" lets other machines ask, and there are no api_keys; make one with `corolla key`, or write \
         access = \"open\" where everybody may ask"
    );
    assert_eq!(keys("listen = \"0.0.0.0:80\"\naccess = \"open\""), Ok(Vec::new()));
    let found = keys(&format!("listen = \"0.0.0.0:80\"\n{KEY}requests_per_minute = 60\nconcurrent = 2")).unwrap();
    assert_eq!(
        (found[0].name.as_str(), found[0].sha256[..2].to_vec(), found[0].concurrent),
        ("ann", vec![0, 0x11], Some(2))
    );
    assert_eq!(found[0].requests_per_minute.map(std::num::NonZeroU32::get), Some(60));
    assert_eq!(keys(KEY).unwrap().len(), 1, "also on this machine alone");
}

#[test]
fn faults_of_keys_and_origins_are_named_and_never_tell_the_key() {
    for (text, fault) in [
        (format!("{KEY}{KEY}"), "api_keys[1] (ann) stands twice, its name or its sha256; keep one"),
        (
            format!("access = \"open\"\n{KEY}"),
            "access = \"open\" lets everybody ask, and there are api_keys that nobody",
        ),
        (KEY.replace("ann", "a b"), "api_keys[0].name = \"a b\" is no name; use up to 64 of"),
        (KEY.replace("0011", "secret"), "api_keys[0].sha256 (ann) is no SHA-256; write its 64 hexadecimal digits"),
        (format!("{KEY}requests_per_minute = 0"), "api_keys[0].requests_per_minute = 0 is out of range"),
        (format!("{KEY}concurrent = 0"), "api_keys[0].concurrent = 0 is out of range"),
        ("[cors]\norigins = [\"https://a.example/\"]".to_owned(), "cors.origins: \"https://a.example/\" is no origin"),
        ("[cors]\norigins = [\"a.example\"]".to_owned(), "cors.origins: \"a.example\" is no origin"),
        ("[limits]\nconnections = 0".to_owned(), "limits.connections = 0 is out of range"),
        ("log_format = \"xml\"".to_owned(), "log_format = \"xml\" is not possible in FILE; it may be: text, json"),
    ] {
        let found = with_model(&text).unwrap_err();
        assert!(found.starts_with(fault), "{found}");
        assert!(!found.contains("secret"), "{found}");
    }
}
