//! The vectors of §12: hex strings in named groups.

use std::sync::LazyLock;

use serde_json::Value;

static ALL: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../tests/fixtures/wire/vectors.json")).expect("the vectors are JSON")
});

/// The JSON at a pointer such as `/unary_frames/call_id`.
pub(crate) fn json(pointer: &str) -> &'static Value {
    ALL.pointer(pointer).unwrap_or_else(|| panic!("no vector {pointer}"))
}

/// The text at a pointer.
pub(crate) fn text(pointer: &str) -> &'static str {
    json(pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text"))
}

/// The bytes at a pointer.
pub(crate) fn bytes(pointer: &str) -> Vec<u8> {
    unhex(text(pointer)).unwrap_or_else(|| panic!("{pointer} is no hex"))
}

/// The elements of an object at a pointer.
pub(crate) fn entries(pointer: &str) -> impl Iterator<Item = (&'static str, &'static Value)> {
    json(pointer).as_object().expect("an object").iter().map(|(key, value)| (key.as_str(), value))
}

/// Bytes of a hex string; `None` where it is none.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

/// Every hex string in the file.
pub(crate) fn all() -> Vec<Vec<u8>> {
    fn collect(value: &Value, into: &mut Vec<Vec<u8>>) {
        match value {
            Value::String(text) => into.extend(unhex(text).filter(|bytes| bytes.len() > 1)),
            Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
            Value::Object(items) => items.values().for_each(|item| collect(item, into)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut found = Vec::new();
    collect(&ALL, &mut found);
    found
}

#[test]
fn no_group_of_vectors_is_new_to_us() {
    let mut known = vec![
        "blockwise8_error", // says why there is none here; there are some in blockwise.json
        "dht_key_ids",
        "dht_protobuf",
        "dictionary_value",
        "forward_backward",
        "inference",
        "live_swarm_petals_2.2.0.post1",
        "model_info",
        "msgpack",
        "multistream", // of the transport, not of this module
        "observed_exchanges_p2pd_v0.5.0.hivemind1",
        "rpc_info",
        "server_info_1_1_5",
        "server_info_2_2_0",
        "server_info_head",
        "split_for_streaming_16",
        "split_for_streaming_empty",
        "stream_frames",
        "tensors",
        "unary_frames",
    ];
    known.sort_unstable();
    let mut found: Vec<_> = entries("").map(|(key, _)| key).collect();
    found.sort_unstable();
    assert_eq!(found, known);
    assert!(all().len() > 100);
}
