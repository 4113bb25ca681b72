//! What is written reads back, however it is cut.

use bytes::Bytes;
use corolla_domain::model::{ElementType, Hidden};
use corolla_swarm::wire::{
    frame::{
        MAX_RECORD, MAX_UNARY, StreamDecoder, StreamFrame, UnaryDecoder, UnaryFrame, encode_stream_error,
        encode_stream_message, encode_unary_request,
    },
    key::{peer_bytes, peer_text},
    msgpack::Value,
    proto::{Compression, Tensor},
    tensor::{self, Joiner, Limits},
};
use proptest::{collection::vec, prelude::*};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<i8>().prop_map(|n| Value::Int(n.into())),
        (1u64 << 63..).prop_map(Value::Big),
        any::<f64>().prop_filter("NaN is not itself", |n| !n.is_nan()).prop_map(Value::Float),
        "\\PC{0,40}".prop_map(Value::Text),
        vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
        (prop_oneof![Just(0x50i8), Just(0x51), Just(-1)], vec(any::<u8>(), 0..20))
            .prop_map(|(code, payload)| Value::Ext(code, payload.into())),
    ];
    leaf.prop_recursive(5, 60, 18, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..18).prop_map(Value::Array),
            vec(inner.clone(), 0..18).prop_map(Value::Tuple),
            vec((inner.clone(), inner), 0..18).prop_map(Value::Map),
        ]
    })
}

/// Feeds `bytes` in chunks of the sizes given, over and over.
fn chunked<'a>(mut bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().copied().unwrap_or(1).min(bytes.len());
        let (head, tail) = bytes.split_at(size);
        bytes = tail;
        (!head.is_empty()).then_some(head)
    })
}

proptest! {
    #[test]
    fn msgpack(value in value()) {
        prop_assert_eq!(Value::decode(&value.encode()).unwrap(), value);
    }

    #[test]
    fn peer_ids(key in vec(any::<u8>(), 1..64), digest in any::<[u8; 32]>()) {
        for id in [[&[0, key.len() as u8][..], &key].concat(), [&[0x12, 0x20][..], &digest].concat()] {
            prop_assert_eq!(peer_bytes(&peer_text(&id).unwrap()).unwrap(), id);
        }
    }

    #[test]
    fn peer_ids_are_never_read_from_noise(text in "\\PC{0,120}", bytes in vec(any::<u8>(), 0..120)) {
        if let Ok(bytes) = peer_bytes(&text) {
            prop_assert_eq!(peer_text(&bytes).unwrap(), text);
        }
        if let Ok(text) = peer_text(&bytes) {
            prop_assert_eq!(peer_bytes(&text).unwrap(), bytes);
        }
    }

    #[test]
    fn streams_in_any_chunks(
        bodies in vec(prop_oneof![
            vec(any::<u8>(), 0..200).prop_map(Ok),
            "[a-z ]{0,20}".prop_map(Err),
        ], 0..8),
        sizes in vec(1usize..40, 1..10),
    ) {
        let mut bytes = Vec::new();
        for body in &bodies {
            bytes.extend(match body {
                Ok(body) => encode_stream_message(body),
                Err(text) => encode_stream_error(text),
            });
        }
        let mut decoder = StreamDecoder::new(MAX_RECORD);
        let mut frames = Vec::new();
        for chunk in chunked(&bytes, &sizes) {
            decoder.push(chunk);
            while let Some(frame) = decoder.next().unwrap() {
                frames.push(match frame {
                    StreamFrame::Message(body) => Ok(body.to_vec()),
                    StreamFrame::Error(text) => Err(text.unwrap()),
                });
            }
        }
        prop_assert_eq!(frames, bodies);
        prop_assert_eq!(decoder.pending(), 0);
    }

    #[test]
    fn unary_requests_in_any_chunks(
        call_id in any::<[u8; 16]>(), peer in vec(any::<u8>(), 0..40), protocol in "[ -~]{0,40}",
        data in vec(any::<u8>(), 0..300), sizes in vec(1usize..40, 1..10),
    ) {
        let data = Bytes::from(data);
        let bytes = encode_unary_request(call_id, &peer, &protocol, data.clone()).unwrap();
        let mut decoder = UnaryDecoder::new(MAX_UNARY);
        for chunk in chunked(&bytes, &sizes) {
            prop_assert_eq!(decoder.next().unwrap(), None);
            decoder.push(chunk);
        }
        let wanted = UnaryFrame::Request { call_id, peer: peer.into(), protocol, data };
        prop_assert_eq!(decoder.next().unwrap(), Some(wanted));
    }

    #[test]
    fn pieces(data in vec(any::<u8>(), 0..400), chunk in 1usize..100) {
        let tensor = Tensor {
            size: vec![data.len() as u32], buffer: data.into(), dtype: "uint8".into(), ..Tensor::default()
        };
        let mut joiner = Joiner::new(2, 800);
        for _ in 0..2 {
            tensor::split(&tensor, chunk).into_iter().for_each(|piece| joiner.push(piece).unwrap());
        }
        prop_assert_eq!(joiner.finish(), vec![tensor; 2]);
    }

    #[test]
    fn hidden_states(values in vec(-65504f32..65504.0, 1..60)) {
        let hidden = Hidden::from_f32((1, values.len(), 1), &values).unwrap();
        let back = |compression| {
            let tensor = tensor::encode(&hidden, compression).unwrap();
            tensor::decode(&tensor, Limits::default()).unwrap().to_hidden().unwrap()
        };
        prop_assert_eq!(&back(Compression::None), &hidden);
        let halved = back(Compression::Float16);
        prop_assert_eq!(halved.dtype(), ElementType::F32);
        for (half, value) in halved.to_f32().iter().zip(&values) {
            prop_assert!((half - value).abs() <= value.abs() / 2048.0 + 6.0e-8, "{} {}", half, value);
        }
    }
}
