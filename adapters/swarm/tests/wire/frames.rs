//! Framings of unary and streaming calls.

use bytes::Bytes;
use corolla_swarm::wire::{
    WireError,
    frame::{
        CallId, END_OF_INPUT, MAX_RECORD, MAX_UNARY, StreamDecoder, StreamFrame, UnaryDecoder, UnaryFrame,
        encode_stream_error, encode_stream_message, encode_unary_reply, encode_unary_request, stream_header,
    },
    key::DhtId,
    proto::{self, ExpertRequest, FindRequest, PingRequest, PingResponse},
};

use crate::vectors::{bytes, text};

const OBSERVED: &str = "/observed_exchanges_p2pd_v0.5.0.hivemind1";

fn unary(bytes: &[u8]) -> Result<Option<UnaryFrame>, WireError> {
    let mut decoder = UnaryDecoder::new(MAX_UNARY);
    decoder.push(bytes);
    decoder.next()
}

/// Everything a stream's bytes hold.
fn stream(bytes: &[u8]) -> Result<Vec<StreamFrame>, WireError> {
    let mut decoder = StreamDecoder::new(MAX_RECORD);
    decoder.push(bytes);
    std::iter::from_fn(|| decoder.next().transpose()).collect()
}

fn message(body: &'static [u8]) -> StreamFrame {
    StreamFrame::Message(Bytes::from_static(body))
}

#[test]
fn unary_frames_are_read_and_written_byte_for_byte() {
    let call_id = CallId::try_from(bytes("/unary_frames/call_id")).unwrap();
    let (peer, protocol) = (bytes("/unary_frames/target_peer"), text("/unary_frames/protocol"));
    let data = Bytes::from(bytes("/dht_protobuf/ping_request_client_mode_validate"));

    let packed = bytes("/unary_frames/request_frame");
    assert_eq!(encode_unary_request(call_id, &peer, protocol, data.clone()).unwrap(), packed);
    let wanted = UnaryFrame::Request { call_id, peer: peer.into(), protocol: protocol.into(), data };
    assert_eq!(unary(&packed).unwrap(), Some(wanted));

    let response = Bytes::from(bytes("/dht_protobuf/ping_response"));
    for (name, outcome) in [
        ("response_frame", Ok(response)),
        ("error_frame", Err("ValueError('boom')")),
        ("empty_response_frame", Ok(Bytes::new())),
    ] {
        let packed = bytes(&format!("/unary_frames/{name}"));
        let call_id = Bytes::copy_from_slice(&call_id);
        assert_eq!(encode_unary_reply(call_id.clone(), outcome.clone()).unwrap(), packed, "{name}");
        let outcome = outcome.map_err(str::to_owned);
        assert_eq!(unary(&packed).unwrap(), Some(UnaryFrame::Reply { call_id, outcome }), "{name}");
    }
}

#[test]
fn stream_records_are_read_and_written_byte_for_byte() {
    assert_eq!(bytes("/stream_frames/end_of_stream"), END_OF_INPUT);
    assert_eq!(stream(&END_OF_INPUT).unwrap(), [StreamFrame::Error(None)]);

    let boom = bytes("/stream_frames/error_boom");
    assert_eq!(encode_stream_error("boom"), boom);
    assert_eq!(stream(&boom).unwrap(), [StreamFrame::Error(Some("boom".into()))]);
    assert_eq!(stream(&encode_stream_error("")).unwrap(), [StreamFrame::Error(Some(String::new()))]);

    let empty = bytes("/stream_frames/empty_expert_request");
    assert_eq!(encode_stream_message(&proto::encode(&ExpertRequest::default())), empty);
    assert_eq!(stream(&empty).unwrap(), [message(b"")]);

    let request = ExpertRequest { uid: "a.0 a.1".into(), ..ExpertRequest::default() };
    let packed = bytes("/stream_frames/expert_request_uid");
    assert_eq!(encode_stream_message(&proto::encode(&request)), packed);
    assert_eq!(stream_header(9), packed[..9]);
}

#[test]
fn unary_exchanges_seen_with_a_real_daemon() {
    for name in ["ping_ok", "ping_empty_peer_field", "ping_extra_byte_after_request"] {
        let mut decoder = UnaryDecoder::new(MAX_UNARY);
        let sent = bytes(&format!("{OBSERVED}/{name}/sent"));
        decoder.push(&sent);
        let Ok(Some(UnaryFrame::Request { call_id, peer, protocol, data })) = decoder.next() else { panic!("{name}") };
        assert_eq!(protocol, "DHTProtocol.rpc_ping");
        assert_eq!(peer.is_empty(), name == "ping_empty_peer_field");
        assert!(proto::decode::<PingRequest>(data.clone()).is_ok());
        assert_eq!(decoder.pending(), usize::from(name == "ping_extra_byte_after_request"));
        let again = encode_unary_request(call_id, &peer, &protocol, data).unwrap();
        assert_eq!(again, sent[..sent.len() - decoder.pending()]);

        let got = bytes(&format!("{OBSERVED}/{name}/got"));
        let Ok(Some(UnaryFrame::Reply { call_id: echoed, outcome: Ok(reply) })) = unary(&got) else { panic!("{name}") };
        assert_eq!(echoed, call_id[..]);
        assert!(proto::decode::<PingResponse>(reply).unwrap().dht_time > 1.7e9);
    }
}

#[test]
fn unary_failures_seen_with_a_real_daemon() {
    let Ok(Some(UnaryFrame::Request { protocol, .. })) =
        unary(&bytes(&format!("{OBSERVED}/ping_wrong_proto_field/sent")))
    else {
        panic!("a request")
    };
    assert_eq!(protocol, "whatever");
    assert!(unary(&bytes(&format!("{OBSERVED}/ping_bad_callid/sent"))).is_err());
    assert!(matches!(
        unary(&bytes(&format!("{OBSERVED}/ping_declared_5MiB/sent"))),
        Err(WireError::TooLarge { claimed: 0x50_0000, .. })
    ));
    for (name, exception) in [("find_key_overflow", "AssertionError("), ("find_garbage_payload", "DecodeError(")] {
        let Ok(Some(UnaryFrame::Request { data, .. })) = unary(&bytes(&format!("{OBSERVED}/{name}/sent"))) else {
            panic!("{name}")
        };
        match proto::decode::<FindRequest>(data) {
            Ok(find) => assert!(DhtId::from_wire(&find.keys[0]).is_err()),
            Err(_) => assert_eq!(name, "find_garbage_payload"),
        }
        let Ok(Some(UnaryFrame::Reply { outcome: Err(text), .. })) = unary(&bytes(&format!("{OBSERVED}/{name}/got")))
        else {
            panic!("{name}")
        };
        assert!(text.starts_with(exception), "{text}");
    }
    let reply = unary(&bytes(&format!("{OBSERVED}/find_wrong_keylen_21/got")));
    assert!(matches!(reply, Ok(Some(UnaryFrame::Reply { outcome: Ok(_), .. }))));

    let wire = bytes(&format!("{OBSERVED}/unary_wire_bytes_from_go/hex"));
    let Ok(Some(UnaryFrame::Request { call_id, peer, protocol, data })) = unary(&wire) else { panic!("a request") };
    assert_eq!(
        (protocol.as_str(), &data[..]),
        (text(&format!("{OBSERVED}/unary_wire_bytes_from_go/proto")), &b"hello"[..])
    );
    assert_eq!(encode_unary_request(call_id, &peer, &protocol, data).unwrap(), wire);
}

#[test]
fn streams_seen_with_a_real_daemon() {
    let seen = |name: &str, side: &str| stream(&bytes(&format!("{OBSERVED}/{name}/{side}")));
    let (one, two) = (message(&[8, 1]), message(&[8, 2]));
    let asked = [one.clone(), two.clone(), StreamFrame::Error(None)];
    assert_eq!(seen("stream_two_then_end", "sent").unwrap(), asked);
    assert_eq!(seen("stream_wire_from_python_client", "hex").unwrap(), asked);
    assert_eq!(seen("stream_two_no_end", "sent").unwrap(), asked[..2]);
    for name in ["stream_two_then_end", "stream_two_no_end"] {
        assert_eq!(seen(name, "got").unwrap(), [two.clone(), message(&[8, 4])]);
    }
    assert_eq!(seen("stream_error", "sent").unwrap(), [one, message(&[8, 13])]);
    assert_eq!(seen("stream_error", "got").unwrap(), [two.clone(), StreamFrame::Error(Some("boom13".into()))]);
    assert!(seen("stream_bad_marker", "sent").is_err());
    assert_eq!(seen("stream_bad_marker", "got").unwrap(), [two]);
}

#[test]
fn lengths_are_refused_before_their_bytes_arrive() {
    for length in [MAX_RECORD as u64 + 1, 1 << 63, u64::MAX] {
        let claim = [&[0][..], &length.to_be_bytes()].concat();
        assert!(matches!(stream(&claim), Err(WireError::TooLarge { claimed, .. }) if claimed == length));
    }
    assert!(matches!(stream(&[1, 0, 0, 0, 0, 0, 1, 0, 1]), Err(WireError::TooLarge { limit: 65536, .. })));
    assert!(matches!(unary(&[0xff; 12]), Err(WireError::Malformed { .. })));
    let claim = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(unary(&claim), Err(WireError::TooLarge { .. })));
    assert_eq!(unary(&[0x80, 0x80]), Ok(None));
    let huge = vec![0; MAX_UNARY].into();
    assert!(encode_unary_request([0; 16], &[], "p", huge).is_err());
}

#[test]
fn an_exception_does_not_fill_our_logs() {
    let text = format!("\u{1b}[31m{}", "x".repeat(10_000));
    let records = stream(&encode_stream_error(&text)).unwrap();
    let [StreamFrame::Error(Some(kept))] = &records[..] else { panic!("an error") };
    assert!(kept.chars().count() == 500 && !kept.contains('\u{1b}'));
}

/// The first bytes of the next message do not keep the memory of a long one.
#[test]
fn a_long_message_has_its_memory_to_itself() {
    let mut decoder = StreamDecoder::new(MAX_RECORD);
    decoder.push(&[&encode_stream_message(&[7; 100_000])[..], &[0; 3]].concat());
    let Some(StreamFrame::Message(message)) = decoder.next().unwrap() else { panic!("no message") };
    assert!(message.try_into_mut().is_ok());
    assert_eq!(decoder.pending(), 3);
}
