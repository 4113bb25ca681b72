//! Servers that misuse `rpc_info`.

use std::time::Duration;

use bytes::Bytes;
use corolla_swarm::wire::{
    frame::{MAX_UNARY, encode_unary_reply, encode_unary_request},
    msgpack::{EXT_DESCRIPTOR, EXT_TUPLE, Value},
    proto::{self, ExpertInfo},
};

use futures_util::future::join_all;

use crate::{
    MIB,
    act::{Act, Misdeed, delay, misdeed, unary},
    alone, assert_fault, cost,
    stage::Stage,
    villain::{Scripts, schema},
};

/// Says this msgpack of itself.
fn saying(info: impl Into<Bytes>) -> impl Fn(Bytes) -> Act + Send + Sync + 'static {
    let message = proto::encode(&ExpertInfo { serialized_info: info.into() });
    move |_| Act::Say(unary(message.clone()))
}

fn map(key: &str, value: Value) -> Vec<u8> {
    Value::map([(key, value)]).encode()
}

/// A schema of one tensor that is described like this.
fn described(entries: Vec<(&str, Value)>) -> Vec<u8> {
    let descriptor = Value::Ext(EXT_DESCRIPTOR, Value::map(entries).encode().into());
    map("inference_schema", Value::Array(vec![Value::Array(vec![descriptor])]))
}

/// Tuples inside each other.
fn nested_tuples() -> Vec<u8> {
    (0..60).fold(Value::Nil.encode(), |inner, _| Value::Ext(EXT_TUPLE, [&[0x91][..], &inner].concat().into()).encode())
}

/// The head of a unary frame that claims to be this long.
fn claim(length: u64) -> Bytes {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(length, &mut bytes);
    bytes.into()
}

fn descriptions() -> Vec<Misdeed<Bytes>> {
    let size = || ("size", Value::Array(vec![Value::Nil, 8.into()]));
    vec![
        misdeed("another width", "numbers", saying(map("inference_schema", schema(9)))),
        misdeed("a width of 2^64-1", "wrong type", saying(map("inference_schema", schema(usize::MAX)))),
        misdeed(
            "a negative width",
            "wrong type",
            saying(described(vec![("size", Value::Array(vec![Value::Int(-1)]))])),
        ),
        misdeed("no map", "not a map", saying([0x90].to_vec())),
        misdeed("nothing", "cut short", saying(Vec::new())),
        misdeed("maps inside each other", "nested", saying([&[0x81, 0xc0].repeat(100_000)[..], &[0xc0]].concat())),
        misdeed("arrays inside each other", "nested", saying(vec![0x91; 250_000])),
        misdeed("tuples inside each other", "nested", saying(nested_tuples())),
        misdeed("a map of 2^32-1 entries", "cut short", saying([0xdf, 0xff, 0xff, 0xff, 0xff].to_vec())),
        misdeed("an array of 2^32-1 items", "cut short", saying([0xdd, 0xff, 0xff, 0xff, 0xff].to_vec())),
        misdeed("2^32-1 bytes", "cut short", saying([0xc6, 0xff, 0xff, 0xff, 0xff, 0].to_vec())),
        misdeed("a text of 2^32-1 bytes", "cut short", saying([0xdb, 0xff, 0xff, 0xff, 0xff, 0].to_vec())),
        misdeed("an extension of 2^32-1 bytes", "cut short", saying([0xc9, 0xff, 0xff, 0xff, 0xff, 0].to_vec())),
        misdeed(
            "a quarter of a million nils",
            "more values",
            saying([&[0xdd, 0, 3, 0, 0][..], &[0xc0; 0x30000]].concat()),
        ),
        misdeed("a megabyte", "over the limit", saying(vec![0xc0; MIB])),
        misdeed("a version of 60 KB", "version", saying(map("version", Value::Text("9".repeat(60_000))))),
        misdeed("a version that is a number", "version", saying(map("version", Value::Int(2)))),
        misdeed("a schema that is a number", "inference_schema", saying(map("inference_schema", Value::Int(2)))),
        misdeed("an unknown type", "inference_schema", saying(described(vec![size(), ("dtype", "torch.f99".into())]))),
        misdeed(
            "an unknown codec",
            "inference_schema",
            saying(described(vec![size(), ("compression", Value::Int(9))])),
        ),
        misdeed(
            "a description of 1000 sides",
            "inference_schema",
            saying(described(vec![("size", Value::Array(vec![8.into(); 1000]))])),
        ),
    ]
}

fn frames() -> Vec<Misdeed<Bytes>> {
    let over = "over the limit";
    let junk = || Bytes::from(vec![0xff; 65536]);
    let to_itself = || encode_unary_request([0; 16], &[], "p", Bytes::new()).unwrap().into();
    let error = |text: &str| Bytes::from(encode_unary_reply(Bytes::new(), Err(text)).unwrap());
    let long = error(&"x".repeat(3 << 20));
    vec![
        misdeed("a reply of 2^62 bytes", over, |_| Act::Say(claim(1 << 62))),
        misdeed("a reply of 2^64-1 bytes", "without an end", |_| Act::Say(claim(u64::MAX))),
        misdeed("a reply of 1 byte too much", over, |_| Act::Say(claim(MAX_UNARY as u64 + 1))),
        misdeed("a length without an end", "without an end", move |_| Act::Endless(Bytes::new(), junk())),
        misdeed("endless junk in the largest frame", "nonsense", move |_| {
            Act::Endless(claim(MAX_UNARY as u64), junk())
        }),
        misdeed("an empty reply", "nonsense", |_| Act::Say(claim(0))),
        misdeed("a request", "a request", move |_| Act::Say(to_itself())),
        misdeed("an error of megabytes", "xxx", move |_| Act::Say(long.clone())),
        misdeed("an error without a text", "failed", move |_| Act::Say(error(""))),
        misdeed("an end without a word", "hung up", |_| Act::End(Bytes::new())),
        misdeed("a break without a word", "", |_| Act::Break(Bytes::new())),
    ]
}

fn delays() -> Vec<Misdeed<Bytes>> {
    let pause = Duration::from_millis(100);
    vec![
        delay("silence", |_| Act::Say(Bytes::new())),
        delay("silence in mid-reply", |info| Act::Say(unary(info).slice(..40))),
        delay("silence after the largest claim", |_| Act::Say(claim(MAX_UNARY as u64))),
        delay("a drip", move |info| Act::Drip(unary(info), pause)),
    ]
}

/// Commits each of these: a fault that says who did what, and a reply that comes from elsewhere.
async fn try_all(stage: &Stage, misdeeds: Vec<Misdeed<Bytes>>, within: Duration) {
    for Misdeed { name, script, kind, words } in misdeeds {
        stage.villain.set(Scripts { info: Some(script), ..Scripts::default() });
        let judged = async {
            let fault = assert_fault(name, stage.dial().await, kind, words);
            assert!(fault.context().contains(&stage.villain.name()), "{name}: {fault} names nobody");
            stage.assert_taken_over(name).await;
        };
        let ((), time, peak) = cost(judged).await;
        println!("{name}: {time:?}, {} KiB", peak / 1024);
        assert!(time < within && peak < 24 * MIB, "{name}: {time:?}, {peak} bytes");
    }
}

#[tokio::test]
async fn descriptions_that_lie() {
    let _alone = alone().await;
    let stage = Stage::new(Duration::from_secs(20)).await;
    try_all(&stage, descriptions(), Duration::from_secs(10)).await;
}

#[tokio::test]
async fn frames_that_lie() {
    let _alone = alone().await;
    let stage = Stage::new(Duration::from_secs(20)).await;
    try_all(&stage, frames(), Duration::from_secs(10)).await;
}

#[tokio::test]
async fn introductions_that_take_for_ever() {
    let _alone = alone().await;
    let patience = Duration::from_millis(400);
    let each = |misdeed| async { try_all(&Stage::new(patience).await, vec![misdeed], 10 * patience).await };
    join_all(delays().into_iter().map(each)).await;
}
