//! Servers that misuse `rpc_inference`.

use std::time::Duration;

use bytes::Bytes;
use corolla_swarm::wire::{
    frame::{MAX_RECORD, encode_stream_error},
    inference::most_reply,
    proto::Tensor,
};

use futures_util::future::join_all;

use crate::{
    MIB,
    act::{Act, Misdeed, claim, cut_record, delay, misdeed, record, reply},
    alone, assert_fault, cost,
    stage::{Stage, states, step},
    villain::Scripts,
};

/// A reply with one thing changed.
fn with(change: impl Fn(&mut Tensor) + Send + Sync + 'static) -> impl Fn(Tensor) -> Act + Send + Sync + 'static {
    move |mut tensor| {
        change(&mut tensor);
        Act::Say(reply(vec![tensor]))
    }
}

/// The reply's last number replaced.
fn ending_in(number: f32) -> impl Fn(Tensor) -> Act + Send + Sync + 'static {
    with(move |tensor| {
        let mut buffer = tensor.buffer.to_vec();
        let end = buffer.len();
        buffer[end - 4..].copy_from_slice(&number.to_le_bytes());
        tensor.buffer = buffer.into();
    })
}

/// A codebook that claims to be this long.
fn codebook(compression: i32, claims: &'static [i64]) -> impl Fn(Tensor) -> Act + Send + Sync + 'static {
    with(move |tensor| {
        tensor.compression = compression;
        tensor.buffer = claims.iter().flat_map(|claim| claim.to_le_bytes()).collect::<Vec<u8>>().into();
    })
}

fn frames() -> Vec<Misdeed<Tensor>> {
    let over = "over the limit";
    vec![
        misdeed("a record of 2^63 bytes", over, |_| Act::Say(claim(1 << 63))),
        misdeed("a record of 2^64-1 bytes", over, |_| Act::Say(claim(u64::MAX))),
        misdeed("a record of 1 byte too much", over, |t| Act::Say(claim(most_reply(&t) as u64 + 1))),
        misdeed("a record as long as any may be", over, |_| Act::Say(claim(MAX_RECORD as u64))),
        misdeed("an endless record", over, |_| Act::Endless(claim(MAX_RECORD as u64), vec![7; 65536].into())),
        misdeed("an unknown marker", "marker 0x07", |_| Act::Say(vec![7; 64].into())),
        misdeed("endless unknown markers", "marker", |_| Act::Endless(Bytes::new(), vec![255; 65536].into())),
        misdeed("an empty record", "0 tensors", |_| Act::Say(claim(0))),
        misdeed("a position that was not sent", "shape", with(|t| t.size[1] += 1)),
        misdeed("bytes that are no message", "nonsense", |_| Act::Say(record(&[0xff; 3]))),
        misdeed("a thousand tensors", over, |_| Act::Say(record(&[0x12, 0].repeat(1000)))),
        misdeed("ten thousand sides", over, |_| {
            Act::Say(record(&[&[0x12, 0x93, 0x4e, 0x12, 0x90, 0x4e][..], &[1; 10_000]].concat()))
        }),
        misdeed("an error without a text", "failed", |_| Act::Say(encode_stream_error("").into())),
        misdeed("an error of megabytes", over, |_| Act::Say(encode_stream_error(&"x".repeat(3 << 20)).into())),
        misdeed("an error of 60 KB", "xxxx", |_| Act::Say(encode_stream_error(&"x".repeat(60_000)).into())),
        misdeed("an error that is no UTF-8", "\u{fffd}\u{fffd}", |_| {
            Act::Say(Bytes::from_static(b"\x01\0\0\0\0\0\0\0\x06\x0a\x04\xff\xfe\xfd\x1b"))
        }),
        misdeed("an error of 2^63 bytes", over, |_| Act::Say(Bytes::from_static(b"\x01\x80\0\0\0\0\0\0\0"))),
        misdeed("the end of its input", "failed", |_| Act::Say(Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0, 0]))),
    ]
}

fn tensors() -> Vec<Misdeed<Tensor>> {
    let fit = "does not fit";
    vec![
        misdeed("no tensor", "0 tensors", |_| Act::Say(reply(vec![]))),
        misdeed("two tensors", "2 tensors", |t: Tensor| Act::Say(reply(vec![t.clone(), t]))),
        misdeed("its sides exchanged", "shape", with(|t| t.size.swap(1, 2))),
        misdeed("one axis", "shape", with(|t| t.size = vec![t.size.iter().product()])),
        misdeed("no axis", "shape", with(|t| t.size.clear())),
        misdeed("nine axes", "over the limit", with(|t| t.size.extend([1; 6]))),
        misdeed("no positions", "shape", with(|t| t.size[1] = 0)),
        misdeed("sides whose product overflows", "shape", with(|t| t.size = vec![u32::MAX; 3])),
        misdeed(
            "sides whose product overflows to the right one",
            "shape",
            with(|t| t.size = vec![1 << 31, 1 << 31, 4]),
        ),
        misdeed("an unknown type", "unknown dtype", with(|t| t.dtype = "float99".into())),
        misdeed("no type", "unknown dtype", with(|t| t.dtype.clear())),
        misdeed("a type of 60 KB", "unknown dtype", with(|t| t.dtype = "f".repeat(60_000))),
        misdeed("whole numbers", "int32", with(|t| t.dtype = "int32".into())),
        misdeed("another width of element", fit, with(|t| t.dtype = "float16".into())),
        misdeed("a byte too few", fit, with(|t| t.buffer = t.buffer.slice(1..))),
        misdeed("a byte too many", fit, with(|t| t.buffer = [&t.buffer[..], &[0]].concat().into())),
        misdeed("no elements", fit, with(|t| t.buffer.clear())),
        misdeed("a NaN", "finite", ending_in(f32::NAN)),
        misdeed("an infinity", "finite", ending_in(f32::INFINITY)),
        misdeed("a negative infinity", "finite", ending_in(f32::NEG_INFINITY)),
        misdeed("an unknown codec", "compression 99", with(|t| t.compression = 99)),
        misdeed("a negative codec", "compression -1", with(|t| t.compression = -1)),
        misdeed("a codebook of 2^62 entries", "cut short", codebook(3, &[1 << 62])),
        misdeed("a codebook of -1 entries", "negative", codebook(4, &[-1])),
        misdeed("scales without number", "scales", codebook(5, &[1 << 62, 1 << 62])),
    ]
}

fn endings() -> Vec<Misdeed<Tensor>> {
    vec![
        misdeed("an end without a word", "closed the session", |_| Act::End(Bytes::new())),
        misdeed("a break without a word", "", |_| Act::Break(Bytes::new())),
        misdeed("an end in mid-record", "hung up", |_| Act::End(cut_record(100, 50))),
    ]
}

fn delays() -> Vec<Misdeed<Tensor>> {
    let pause = Duration::from_millis(100);
    vec![
        delay("silence", |_| Act::Say(Bytes::new())),
        delay("silence in mid-record", |_| Act::Say(cut_record(100, 50))),
        delay("silence one byte before the end", |t| Act::Say(cut_record(most_reply(&t), most_reply(&t) - 1))),
        delay("a drip", move |t| Act::Drip(reply(vec![t]), pause)),
        delay("a drip of junk that is never whole", move |_| Act::Drip(cut_record(60_000, 60_000), pause)),
    ]
}

/// Commits each of these in the middle of a reply: a fault that says who did what, and a reply that goes on elsewhere.
async fn in_mid_reply(stage: &Stage, misdeeds: Vec<Misdeed<Tensor>>, within: Duration) {
    for Misdeed { name, script, kind, words } in misdeeds {
        stage.villain.set(Scripts { step: Some((2, script)), ..Scripts::default() });
        let judged = async {
            let mut session = stage.dial().await.unwrap();
            step(&mut *session, &states(5, 1)).await.unwrap();
            let fault = assert_fault(name, step(&mut *session, &states(3, 3)).await, kind, words);
            assert!(fault.context().contains(&stage.villain.name()), "{name}: {fault} names nobody");
            assert_eq!(session.position(), 5, "{name}");
            stage.assert_taken_over(name).await;
        };
        judge(name, judged, within).await;
    }
}

/// Commits each of these in place of the answer after `honest` ones: there is no session, or none that lasts a step.
async fn from_the_beginning(stage: &Stage, misdeeds: Vec<Misdeed<Tensor>>, honest: usize, within: Duration) {
    for Misdeed { name, script, .. } in misdeeds {
        stage.villain.set(Scripts { step: Some((honest, script)), ..Scripts::default() });
        let judged = async {
            assert_eq!(stage.dial().await.is_ok(), honest > 0, "{name}");
            stage.assert_taken_over(name).await;
        };
        judge(name, judged, within).await;
    }
}

async fn judge(name: &str, judged: impl Future<Output = ()>, within: Duration) {
    let ((), time, peak) = cost(judged).await;
    println!("{name}: {time:?}, {} KiB", peak / 1024);
    assert!(time < within && peak < 16 * MIB, "{name}: {time:?}, {peak} bytes");
}

const PATIENCE: Duration = Duration::from_secs(20);
const PROMPT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn frames_that_lie() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    in_mid_reply(&stage, frames(), PROMPT).await;
    from_the_beginning(&stage, frames(), 0, PROMPT).await;
}

#[tokio::test]
async fn tensors_that_lie() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    in_mid_reply(&stage, tensors(), PROMPT).await;
    from_the_beginning(&stage, tensors(), 1, PROMPT).await;
}

#[tokio::test]
async fn streams_that_end() {
    let _alone = alone().await;
    let stage = Stage::new(PATIENCE).await;
    in_mid_reply(&stage, endings(), PROMPT).await;
    from_the_beginning(&stage, endings(), 0, PROMPT).await;
}

/// How long a server may take over one message; a drip would take many times as long.
const SHORT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn answers_that_take_for_ever_in_mid_reply() {
    let _alone = alone().await;
    let each = |misdeed| async { in_mid_reply(&Stage::new(SHORT).await, vec![misdeed], 10 * SHORT).await };
    join_all(delays().into_iter().map(each)).await;
}

#[tokio::test]
async fn answers_that_take_for_ever_from_the_beginning() {
    let _alone = alone().await;
    let each = |misdeed| async { from_the_beginning(&Stage::new(SHORT).await, vec![misdeed], 0, 10 * SHORT).await };
    join_all(delays().into_iter().map(each)).await;
}
