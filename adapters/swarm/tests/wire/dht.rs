//! Keys, msgpack, records and messages of the DHT.

use corolla_swarm::wire::{
    key::{self, DhtId, dht_id},
    msgpack::{EXT_DICTIONARY, Value},
    proto::{
        self, Bounded, FindRequest, FindResponse, PingRequest, PingResponse, ResultType, StoreRequest, StoreResponse,
    },
    record::{Dictionary, Entry},
    server::{self, ModelRecord, ServerRecord, ServerState},
};

use crate::vectors::{bytes, entries, json, text, unhex};

const LIVE: &str = "/live_swarm_petals_2.2.0.post1";

#[test]
fn keys_have_the_ids_of_the_reference() {
    let keys = json("/dht_key_ids").as_array().expect("a list");
    assert_eq!(keys.len(), 8);
    for vector in keys {
        let id = vector["dht_id"].as_str().and_then(unhex).expect("an id");
        let found = match vector["key"].as_str() {
            Some(key) => {
                let packed = vector["msgpack"].as_str().and_then(unhex).expect("hex");
                assert_eq!(Value::from(key).encode(), packed);
                assert_eq!(DhtId::of_bytes(&packed), dht_id(key));
                dht_id(key)
            }
            None => DhtId::of_bytes(&vector["key_bytes"].as_str().and_then(unhex).expect("hex")),
        };
        assert_eq!(found, DhtId::from_wire(&id).unwrap(), "{vector}");
    }
}

#[test]
fn msgpack_is_read_and_written_byte_for_byte() {
    let tensors = (0..3).map(|i| Value::Bytes(format!("__T{i}").into())).collect();
    let wanted = [
        ("none", Value::Nil),
        ("tuple_1_2f_dict", Value::Tuple(vec![Value::Int(2), Value::Float(1.5), Value::map([("a", Value::Nil)])])),
        ("nested_tuple", Value::Tuple(vec![Value::Tuple(tensors), Value::Map(Vec::new())])),
        ("empty_tuple", Value::Tuple(Vec::new())),
        ("list", Value::Array(vec![Value::Int(1), Value::Int(2)])),
        ("inf", Value::Float(f64::INFINITY)),
        ("int300", Value::Int(300)),
        ("bytes_abc", Value::Bytes("abc".into())),
        ("float_1700000000_5", Value::Float(1_700_000_000.5)),
    ];
    assert_eq!(entries("/msgpack").count(), wanted.len());
    for (name, value) in wanted {
        let packed = bytes(&format!("/msgpack/{name}"));
        let read = Value::decode(&packed).unwrap();
        assert_eq!(value.encode(), packed, "{name}");
        assert_eq!(read, value, "{name}");
    }
}

/// The server all three vectors describe, as Petals 2.2.0 would.
fn server() -> ServerRecord {
    ServerRecord {
        version: Some("2.2.0".into()),
        network_rps: Some(1000.25),
        forward_rps: Some(2000.5),
        inference_rps: Some(80.125),
        torch_dtype: Some("bfloat16".into()),
        quant_type: Some("none".into()),
        using_relay: Some(false),
        cache_tokens_left: Some(4096),
        next_pings: [("12D3KooWTestPeerOne".to_owned(), 0.025)].into(),
        ..ServerRecord::new(ServerState::Online, 123.5)
    }
}

#[test]
fn servers_of_every_age_are_understood() {
    let newest =
        ServerRecord { version: Some("2.3.0.dev2".into()), start_block: Some(0), end_block: Some(4), ..server() };
    for (name, record) in [("head", newest), ("2_2_0", server())] {
        let packed = bytes(&format!("/server_info_{name}/msgpack"));
        assert_eq!(ServerRecord::decode(&packed).unwrap(), record, "{name}");
        assert_eq!(record.encode(), packed, "{name}");
    }
    let oldest = ServerRecord::decode(&bytes("/server_info_1_1_5/msgpack")).unwrap();
    assert_eq!(oldest, ServerRecord::new(ServerState::Online, 123.5));
}

/// A record with one of its parts replaced.
fn with(state: Value, throughput: Value, extra: Value) -> Vec<u8> {
    Value::Tuple(vec![state, throughput, extra]).encode()
}

#[test]
fn servers_that_the_reference_refuses_are_refused() {
    let float = Value::Float;
    let (online, fast, nothing) = (Value::Int(2), float(1.0), Value::map::<&str>([]));
    let cases = [
        with(Value::Int(3), fast.clone(), nothing.clone()),
        with(float(2.0), fast.clone(), nothing.clone()),
        with(online.clone(), Value::Int(10), nothing.clone()),
        with(online.clone(), float(f64::INFINITY), nothing.clone()),
        with(online.clone(), float(f64::NAN), nothing.clone()),
        with(online.clone(), float(-1.0), nothing.clone()),
        with(online.clone(), fast.clone(), Value::Int(1)),
        Value::Tuple(vec![online.clone()]).encode(),
        Value::Nil.encode(),
    ];
    for case in cases {
        assert!(ServerRecord::decode(&case).is_err(), "{case:02x?}");
    }
    let pings = |seconds| Value::map([("QmPeer", seconds)]);
    for (key, value) in [
        ("inference_rps", Value::Int(80)),
        ("network_rps", float(f64::INFINITY)),
        ("start_block", float(0.0)),
        ("end_block", Value::Int(-1)),
        ("cache_tokens_left", float(4096.0)),
        ("adapters", Value::Nil),
        ("next_pings", pings(Value::Int(1))),
        ("next_pings", pings(float(f64::NAN))),
        ("using_relay", Value::Int(0)),
    ] {
        let record = with(online.clone(), fast.clone(), Value::map([(key, value)]));
        assert!(ServerRecord::decode(&record).is_err(), "{key}");
    }
    let taken = Value::map([
        ("next_pings", pings(float(f64::INFINITY))),
        ("adapters", Value::Array(vec!["lora".into()])),
        ("of_tomorrow", Value::Int(1)),
        ("version", Value::Nil),
    ]);
    let record = ServerRecord::decode(&Value::Array(vec![online, fast, taken]).encode()).unwrap();
    assert_eq!(record.adapters, ["lora"]);
    assert!(record.next_pings["QmPeer"].is_infinite());
}

#[test]
fn the_registry_of_models() {
    let packed = bytes("/model_info/msgpack");
    let model = ModelRecord { num_blocks: 24, repository: Some("https://huggingface.co/bigscience/bloom-560m".into()) };
    assert_eq!(ModelRecord::decode(&packed).unwrap(), model);
    assert_eq!(model.encode(), packed);
    assert!(ModelRecord::decode(&Value::map([("num_blocks", Value::Int(0))]).encode()).is_err());
}

#[test]
fn prefixes_follow_the_family() {
    for (family, repository, prefix) in [
        ("bloom", "bigscience/bloom-560m", Some("bigscience/bloom-560m-petals")),
        ("llama", "meta-llama/Llama-2-7b", Some("Llama-2-7b-hf")),
        ("llama", "meta-llama/Meta-Llama-3.1-8B", Some("Meta-Llama-3-1-8B-hf")),
        ("llama", "meta-llama/Llama-2-7b-hf", Some("Llama-2-7b-hf")),
        ("falcon", "tiiuae/falcon-40b", Some("falcon-40b")),
        ("mixtral", "mistralai/Mixtral-8x7B-v0.1", Some("mistralai/Mixtral-8x7B-v0-1")),
        ("gpt2", "gpt2", None),
    ] {
        assert_eq!(server::default_prefix(family, repository).as_deref(), prefix, "{repository}");
    }
    assert!(server::check_prefix("bloom-560m-petals").is_ok());
    for bad in ["", "a.b", "a b"] {
        assert!(server::check_prefix(bad).is_err(), "{bad:?}");
    }
    assert_eq!(server::block_uids("p", 2..4), "p.2 p.3");
}

#[test]
fn dictionaries_are_read_and_written_byte_for_byte() {
    let packed = bytes("/dictionary_value/msgpack");
    let dictionary = Dictionary::decode(&packed).unwrap();
    assert_eq!(dictionary.encode(), packed);
    assert_eq!(dictionary.broken, 0);
    for item in json("/dictionary_value/items").as_array().expect("a list") {
        let entry = &dictionary.entries[item[0].as_str().expect("a subkey")];
        assert_eq!(entry.value, item[1].as_str().and_then(unhex).expect("hex"));
        assert_eq!(Some(entry.expiration), item[2].as_f64());
    }
}

#[test]
fn a_broken_entry_costs_that_entry_only() {
    let item = |subkey: Value, value: Value, until: Value| Value::Array(vec![subkey, value, until]);
    let bin = || Value::Bytes("x".into());
    let items = vec![
        item("whole".into(), bin(), Value::Float(5.0)),
        item(Value::Int(1), bin(), Value::Float(5.0)),
        item("text".into(), "x".into(), Value::Float(5.0)),
        item("never".into(), bin(), Value::Float(f64::INFINITY)),
        item("nan".into(), bin(), Value::Float(f64::NAN)),
        item("int".into(), bin(), Value::Int(5)),
        Value::Array(vec!["short".into()]),
        Value::Nil,
    ];
    let payload = Value::Array(vec![Value::Float(f64::INFINITY), Value::Float(5.0), Value::Array(items)]);
    let packed = Value::Ext(EXT_DICTIONARY, payload.encode().into()).encode();
    let dictionary = Dictionary::decode(&packed).unwrap();
    assert_eq!(dictionary.entries.keys().collect::<Vec<_>>(), ["whole"]);
    assert_eq!(dictionary.broken, 7);
}

#[test]
fn the_later_entry_wins_a_merge() {
    let of = |entries: &[(&str, &'static str, f64)]| Dictionary {
        entries: entries
            .iter()
            .map(|(key, value, expiration)| {
                ((*key).to_owned(), Entry { value: (*value).into(), expiration: *expiration })
            })
            .collect(),
        broken: 1,
    };
    let mut held = of(&[("a", "old", 10.0), ("b", "new", 20.0), ("c", "gone", 4.0)]);
    held.merge(of(&[("a", "new", 11.0), ("b", "old", 19.0), ("d", "new", 5.5)]));
    held.drop_expired(5.0);
    let values: Vec<_> = held.entries.iter().map(|(key, entry)| (key.as_str(), &entry.value[..])).collect();
    assert_eq!(values, [("a", &b"new"[..]), ("b", b"new"), ("d", b"new")]);
    assert_eq!(held.broken, 2);
}

/// Reads a vector of `/dht_protobuf` and checks that writing it gives the same bytes.
fn message<M: Bounded>(name: &str) -> M {
    let packed = bytes(&format!("/dht_protobuf/{name}"));
    let message: M = proto::decode(packed.clone()).unwrap();
    assert_eq!(proto::encode(&message), packed, "{name}");
    message
}

#[test]
fn messages_of_the_dht() {
    let (node, key) = (bytes("/dht_protobuf/node_id"), bytes("/dht_protobuf/key_id"));
    let ping: PingRequest = message("ping_request_client_mode_validate");
    assert!(ping.validate && ping.peer.expect("present").node_id.is_empty());
    let ping: PingRequest = message("ping_request_server_mode_validate");
    assert_eq!(ping.peer.expect("present").node_id, node);
    let pong: PingResponse = message("ping_response");
    assert!(pong.available && pong.dht_time > 1.7e9);
    let find: FindRequest = message("find_request_client_mode");
    assert_eq!(find.keys, [key]);

    let found: FindResponse = message("find_response_dictionary");
    assert_eq!(found.results[0].kind(), Some(ResultType::Dictionary));
    assert_eq!(Dictionary::decode(&found.results[0].value).unwrap().entries.len(), 2);
    assert!(!found.results[0].nearest_peer_ids.is_empty());
    let missing: FindResponse = message("find_response_not_found");
    assert_eq!(missing.results[0].kind(), Some(ResultType::NotFound));

    let store: StoreRequest = message("store_request_subkey");
    assert_eq!(Value::decode(&store.subkeys[0]).unwrap().as_text(), Some("QmPeerA"));
    let store: StoreRequest = message("store_request_regular");
    assert_eq!((Value::decode(&store.subkeys[0]).unwrap(), &store.in_cache[..]), (Value::Nil, &[true][..]));
    let store: StoreRequest = message("store_request_whole_dictionary");
    assert_eq!(Dictionary::decode(&store.values[0]).unwrap().encode(), store.values[0]);
    let stored: StoreResponse = message("store_response");
    assert_eq!(stored.store_ok, [true, false]);
}

#[test]
fn neighbours_that_are_broken_are_left_out() {
    let node = || vec![7u8; 20].into();
    let peer = || [&[0x12, 0x20][..], &[9; 32]].concat().into();
    let result = proto::FindResult {
        nearest_node_ids: vec![node(), node(), vec![7; 19].into(), node()],
        nearest_peer_ids: vec![peer(), "nonsense".into(), peer()],
        ..Default::default()
    };
    assert_eq!(result.neighbours().map(|(id, _)| id).collect::<Vec<_>>(), [DhtId([7; 20])]);
}

#[test]
fn records_of_a_live_swarm() {
    let models = Dictionary::decode(&bytes(&format!("{LIVE}/models_value"))).unwrap();
    let model = ModelRecord::decode(&models.entries[text(&format!("{LIVE}/prefix"))].value).unwrap();
    assert_eq!(model, ModelRecord { num_blocks: 4, repository: None });

    let block = Dictionary::decode(&bytes(&format!("{LIVE}/block0_value"))).unwrap();
    let (peer, entry) = block.entries.first_key_value().expect("one server");
    assert_eq!(key::peer_text(&key::peer_bytes(peer).unwrap()).unwrap(), *peer);
    let server = ServerRecord::decode(&entry.value).unwrap();
    assert_eq!((server.start_block, server.end_block), (Some(0), Some(2)));
    assert_eq!(server.version.as_deref(), Some("2.2.0.post1"));
    assert_eq!(server.torch_dtype.as_deref(), Some("float32"));
    assert_eq!((server.cache_tokens_left, server.inference_rps), (Some(16384), None));
    assert_eq!(server.next_pings.len(), 1);
    assert_eq!(server.encode(), entry.value);
}

#[test]
fn distance_is_a_number() {
    let id = |last: u8| DhtId([vec![0; 19], vec![last]].concat().try_into().unwrap());
    assert_eq!(id(0b0110).distance(&id(0b0011)), id(0b0101));
    assert!(id(1) < id(2) && DhtId([1; 20]) > id(255));
    assert!(DhtId::from_wire(&[0; 21]).is_err());
}
