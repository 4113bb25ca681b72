//! The shim against scripted peers: any split of the bytes, refusals, lists, early data, ends in mid-handshake.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const HEADER: &str = "/multistream/1.0.0";

/// The muxer's side of a stream: gives bytes in the given portions, takes them in small ones, and is not ready every
/// other time.
#[derive(Debug, Default)]
struct Wire {
    portions: VecDeque<usize>,
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
    ready: bool,
}

impl Wire {
    fn portion(&mut self) -> Option<usize> {
        self.ready = !self.ready;
        let size = self.portions.pop_front().unwrap_or(1);
        self.portions.push_back(size);
        self.ready.then_some(size)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(size) = self.portion() else { return Poll::Pending };
        let size = size.min(buf.len()).min(self.incoming.len());
        buf.iter_mut().zip(self.incoming.drain(..size)).for_each(|(to, byte)| *to = byte);
        Poll::Ready(Ok(size))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some(size) = self.portion() else { return Poll::Pending };
        let size = size.min(buf.len());
        self.outgoing.extend_from_slice(&buf[..size]);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A stream whose other end has said `incoming`.
fn shim(side: Side, incoming: &[u8], portions: &[usize]) -> ShimStream<Wire> {
    let wire = Wire {
        portions: portions.iter().copied().collect(),
        incoming: incoming.iter().copied().collect(),
        ..Wire::default()
    };
    ShimStream::new(wire, side)
}

fn insist<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> io::Result<T> {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(outcome) = poll(&mut cx) {
            return outcome;
        }
    }
    panic!("the stream hangs");
}

fn read(stream: &mut ShimStream<Wire>, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let mut buf = vec![0; (count - bytes.len()).min(7)];
        let got = insist(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
        if got == 0 {
            break;
        }
        bytes.extend_from_slice(&buf[..got]);
    }
    Ok(bytes)
}

fn write(stream: &mut ShimStream<Wire>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let taken = insist(|cx| Pin::new(&mut *stream).poll_write(cx, &bytes[..bytes.len().min(11)])).unwrap();
        bytes = &bytes[taken..];
    }
    let mut cx = Context::from_waker(Waker::noop());
    while Pin::new(&mut *stream).poll_flush(&mut cx).is_pending() {}
}

fn frame(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(text.len() as u64 + 1, &mut bytes);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes
}

fn frames<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    texts.into_iter().flat_map(frame).collect()
}

/// A name as it goes over the wire, and as the local stack knows it.
fn name() -> impl Strategy<Value = (String, String)> {
    prop_oneof![
        "[A-Za-z]{1,20}\\.rpc_[a-z]{1,150}".prop_map(|name| (name.clone(), format!("/hm/{name}"))),
        "/(ipfs|x)/[a-z]{1,120}".prop_map(|name| (name.clone(), name)),
        "/hm/[a-z]{1,9}".prop_map(|name| (name.clone(), format!("/hm/{name}"))),
    ]
}

fn portions() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..40, 1..6)
}

proptest! {
    #[test]
    fn a_dialer_proposes_until_accepted(
        refused in prop::collection::vec(name(), 0..4), taken in name(), data in prop::collection::vec(any::<u8>(), 0..300),
        portions in portions(),
    ) {
        let answers: Vec<&str> = refused.iter().map(|_| "na").chain([taken.0.as_str()]).collect();
        let incoming = [frame(HEADER), frames(answers), data.clone()].concat();
        let mut stream = shim(Side::Dialer, &incoming, &portions);
        write(&mut stream, &frame(HEADER));
        for (at, (_, local)) in refused.iter().enumerate() {
            write(&mut stream, &frame(local));
            let expected = if at == 0 { frames([HEADER, "na"]) } else { frame("na") };
            prop_assert_eq!(read(&mut stream, expected.len()).unwrap(), expected);
        }
        write(&mut stream, &frame(&taken.1));
        let expected = if refused.is_empty() { frames([HEADER, &taken.1]) } else { frame(&taken.1) };
        prop_assert_eq!(read(&mut stream, expected.len()).unwrap(), expected);
        write(&mut stream, &data);
        prop_assert_eq!(read(&mut stream, data.len() + 1).unwrap(), data.clone());
        let names = refused.iter().chain([&taken]).map(|(wire, _)| wire.as_str());
        prop_assert_eq!(&stream.inner.outgoing, &[frames([HEADER].into_iter().chain(names)), data].concat());
    }

    #[test]
    fn a_dialer_may_send_ahead(taken in name(), data in prop::collection::vec(any::<u8>(), 1..300), portions in portions()) {
        let incoming = [frames([HEADER, &taken.0]), data.clone()].concat();
        let mut stream = shim(Side::Dialer, &incoming, &portions);
        write(&mut stream, &[frames([HEADER, &taken.1]), data.clone()].concat());
        prop_assert_eq!(&stream.inner.outgoing, &[frames([HEADER, &taken.0]), data.clone()].concat());
        let expected = [frames([HEADER, &taken.1]), data].concat();
        prop_assert_eq!(read(&mut stream, expected.len() + 1).unwrap(), expected);
    }

    #[test]
    fn a_listener_answers_each_proposal(
        refused in prop::collection::vec((name(), any::<bool>()), 0..4), taken in name(),
        data in prop::collection::vec(any::<u8>(), 0..300), portions in portions(),
    ) {
        // A refused round is a name answered by `na`, or `ls` answered by a list of that name.
        let asked = |(names, list): &((String, String), bool), local: bool| {
            if *list { "ls".to_owned() } else if local { names.1.clone() } else { names.0.clone() }
        };
        let told = |(names, list): &((String, String), bool), local: bool| {
            let name = if local { &names.1 } else { &names.0 };
            // The list's own newline is the one `frame` adds.
            if *list { String::from_utf8(frames([name.as_str(), "/x/y"])).ok() } else { Some("na".to_owned()) }
        };
        // A two-byte length is no text; such rounds would need bytes.
        prop_assume!(refused.iter().all(|round| told(round, true).is_some() && told(round, false).is_some()));
        let proposals: Vec<String> = refused.iter().map(|round| asked(round, false)).chain([taken.0.clone()]).collect();
        let incoming = [frame(HEADER), frames(proposals.iter().map(String::as_str)), data.clone()].concat();
        let mut stream = shim(Side::Listener, &incoming, &portions);
        prop_assert_eq!(read(&mut stream, frame(HEADER).len()).unwrap(), frame(HEADER));
        write(&mut stream, &frame(HEADER));
        let mut answers = frame(HEADER);
        for round in &refused {
            let expected = frame(&asked(round, true));
            prop_assert_eq!(read(&mut stream, expected.len()).unwrap(), expected);
            let mut cx = Context::from_waker(Waker::noop());
            prop_assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut [0; 8]).is_pending());
            write(&mut stream, &frame(&told(round, true).unwrap()));
            answers.extend(frame(&told(round, false).unwrap()));
        }
        let expected = frame(&taken.1);
        prop_assert_eq!(read(&mut stream, expected.len()).unwrap(), expected);
        write(&mut stream, &[frame(&taken.1), data.clone()].concat());
        prop_assert_eq!(read(&mut stream, data.len() + 1).unwrap(), data.clone());
        prop_assert_eq!(&stream.inner.outgoing, &[answers, frame(&taken.0), data].concat());
    }

    #[test]
    fn an_end_in_the_handshake_is_an_end(taken in name(), cut in any::<prop::sample::Index>(), portions in portions()) {
        let whole = frames([HEADER, &taken.0]);
        let mut stream = shim(Side::Dialer, &whole[..cut.index(whole.len())], &portions);
        write(&mut stream, &frames([HEADER, &taken.1]));
        let got = read(&mut stream, 4096).unwrap();
        prop_assert!(frames([HEADER, &taken.1]).starts_with(&got));
        prop_assert!(got.len() < frames([HEADER, &taken.1]).len());
    }

    #[test]
    fn garbage_neither_panics_nor_piles_up(bytes in prop::collection::vec(any::<u8>(), 0..5000), dialer in any::<bool>()) {
        let side = if dialer { Side::Dialer } else { Side::Listener };
        let mut stream = shim(side, &bytes, &[64]);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..300 {
            let done = matches!(Pin::new(&mut stream).poll_read(&mut cx, &mut [0; 16]), Poll::Ready(Ok(0) | Err(_)));
            prop_assert!(stream.arrived.len() <= 0x4000 + READ_CHUNK && stream.readable.len() <= 0x4000 + 6);
            if done {
                break;
            }
        }
    }
}

#[test]
fn the_specified_bytes() {
    let mut stream = shim(Side::Dialer, &[], &[64]);
    write(&mut stream, &frames([HEADER, "/hm/DHTProtocol.rpc_ping"]));
    assert_eq!(stream.inner.outgoing, b"\x13/multistream/1.0.0\n\x15DHTProtocol.rpc_ping\n");
}

#[test]
fn a_handshake_without_an_end_is_broken_off() {
    for text in [HEADER, "na", "ls"] {
        let mut stream = shim(Side::Dialer, &frames(vec![text; MAX_FRAMES + 1]), &[64]);
        assert_eq!(read(&mut stream, 1 << 20).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text}");
        let mut stream = shim(Side::Dialer, &frames(vec![text; MAX_FRAMES]), &[64]);
        assert_eq!(read(&mut stream, 1 << 20).unwrap(), frames(vec![text; MAX_FRAMES]));
    }
}
