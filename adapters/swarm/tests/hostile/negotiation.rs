//! Peers that misuse the negotiation of streams.

use std::time::Duration;

use bytes::Bytes;
use corolla_domain::ports::FaultKind::{self, TimedOut, Unavailable};
use corolla_swarm::{
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig},
};

use crate::{
    MIB,
    act::Act,
    alone, assert_fault, cost,
    raw::{Manner, Raw},
};

const METHOD: &str = "Test.rpc_any";
const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";
const ACCEPTED: &[u8] = b"\x0dTest.rpc_any\n";
const REFUSED: &[u8] = b"\x03na\n";

fn acts() -> Vec<(&'static str, Act, FaultKind)> {
    let say = |parts: &[&[u8]]| Bytes::from(parts.concat());
    let long = |byte: u8| say(&[&[0xff, 0x7f], &[byte; 0x3fff]]);
    let pause = Duration::from_millis(50);
    vec![
        ("silence", Act::Say(Bytes::new()), TimedOut),
        ("silence after the header", Act::Say(say(&[HEADER])), TimedOut),
        ("silence in the header", Act::Say(say(&[&HEADER[..9]])), TimedOut),
        ("silence in a name", Act::Say(say(&[HEADER, &ACCEPTED[..9]])), TimedOut),
        ("a drip", Act::Drip(say(&[HEADER, ACCEPTED]), pause), TimedOut),
        ("an end without a word", Act::End(Bytes::new()), Unavailable),
        ("a break without a word", Act::Break(Bytes::new()), Unavailable),
        ("an end after the header", Act::End(say(&[HEADER])), Unavailable),
        ("an end in a name", Act::End(say(&[HEADER, &ACCEPTED[..9]])), Unavailable),
        ("an empty frame", Act::Say(Bytes::from_static(&[0])), Unavailable),
        ("endless nothing", Act::Endless(Bytes::new(), vec![0; 65536].into()), Unavailable),
        ("a length of three bytes", Act::Say(Bytes::from_static(&[0xff, 0xff, 0x01])), Unavailable),
        ("endless lengths", Act::Endless(Bytes::new(), vec![0xff; 65536].into()), Unavailable),
        ("the longest name without a newline", Act::Say(long(b'x')), Unavailable),
        ("endless names without a newline", Act::Endless(Bytes::new(), long(b'x')), Unavailable),
        ("the longest name of newlines", Act::Say(long(b'\n')), Unavailable),
        ("a name that is no UTF-8", Act::Say(say(&[HEADER, &[3, b'/', 0xff, b'\n']])), Unavailable),
        ("another protocol", Act::Say(say(&[HEADER, b"\x07/other\n"])), Unavailable),
        ("a list nobody asked for", Act::Say(say(&[HEADER, b"\x05\x03/a\n\n"])), Unavailable),
        ("a refusal", Act::Say(say(&[HEADER, REFUSED])), Unavailable),
        ("endless refusals", Act::Endless(say(&[HEADER]), REFUSED.repeat(10_000).into()), Unavailable),
        ("endless headers", Act::Endless(Bytes::new(), HEADER.repeat(1000).into()), Unavailable),
        ("HTTP", Act::Say(Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n")), TimedOut),
    ]
}

async fn client(raw: &Raw, open_timeout: Duration) -> Rpc {
    let host = Host::start(HostConfig { open_timeout, ..HostConfig::default() }).await.unwrap();
    host.add_address(raw.peer, raw.address.clone()).await;
    host.connect(raw.peer).await.unwrap();
    Rpc::new(host, RpcLimits::default())
}

#[tokio::test]
async fn negotiations_that_lie() {
    try_all(|kind| kind != TimedOut).await;
}

#[tokio::test]
async fn negotiations_that_take_for_ever() {
    try_all(|kind| kind == TimedOut).await;
}

async fn try_all(wanted: impl Fn(FaultKind) -> bool) {
    let _alone = alone().await;
    for (name, act, kind) in acts().into_iter().filter(|(_, _, kind)| wanted(*kind)) {
        let slow = kind == TimedOut;
        let raw = Raw::start(Manner::Answer(act)).await;
        let rpc = client(&raw, Duration::from_millis(if slow { 200 } else { 10_000 })).await;
        let limit = Duration::from_secs(20);
        let (outcome, time, peak) = cost(rpc.unary(raw.peer, METHOD, Bytes::new(), limit)).await;
        let fault = assert_fault(name, outcome, kind, "");
        assert!(fault.context().contains(&raw.peer.to_string()), "{name}: {fault}");
        println!("{name}: {time:?}, {} KiB", peak / 1024);
        assert!(
            time < Duration::from_secs(if slow { 5 } else { 10 }) && peak < 8 * MIB,
            "{name}: {time:?}, {peak} bytes"
        );
    }
}
