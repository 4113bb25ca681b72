//! Bytes that nobody should write: no decoder panics, and none allocates what a claim asks for.

use std::sync::LazyLock;

use bytes::Bytes;
use corolla_domain::model::Hidden;
use corolla_swarm::wire::{
    frame::{MAX_RECORD, MAX_UNARY, StreamDecoder, UnaryDecoder},
    inference,
    key::{peer_bytes, peer_text},
    msgpack::{EXT_TUPLE, Limits, Value},
    proto::{self, Bounded, Tensor},
    record::Dictionary,
    server::{ModelRecord, ServerRecord},
    tensor,
};
use proptest::{collection::vec, prelude::*};

use crate::vectors;

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(vectors::all);

/// Reads and, where it was read, writes and reads again: that must give the same.
fn message<M: Bounded + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = proto::decode::<M>(bytes.to_vec()) {
        let again = proto::decode::<M>(proto::encode(&message));
        assert!(again.is_ok());
    }
}

/// Hands `bytes` to every decoder. What they say does not matter; that they return does.
fn read_as_everything(bytes: &[u8]) {
    let mut unary = UnaryDecoder::new(MAX_UNARY);
    unary.push(bytes);
    while let Ok(Some(_)) = unary.next() {}
    let mut stream = StreamDecoder::new(MAX_RECORD);
    stream.push(bytes);
    while let Ok(Some(_)) = stream.next() {}

    message::<proto::PersistentConnectionRequest>(bytes);
    message::<proto::RpcError>(bytes);
    message::<proto::PingRequest>(bytes);
    message::<proto::PingResponse>(bytes);
    message::<proto::StoreRequest>(bytes);
    message::<proto::StoreResponse>(bytes);
    message::<proto::FindRequest>(bytes);
    message::<proto::FindResponse>(bytes);
    message::<proto::ExpertUid>(bytes);
    message::<proto::ExpertRequest>(bytes);
    message::<proto::ExpertResponse>(bytes);
    if let Ok(found) = proto::decode::<proto::FindResponse>(bytes.to_vec()) {
        for result in &found.results {
            assert!(result.neighbours().count() <= result.nearest_node_ids.len());
        }
    }

    if let Ok(value) = Value::decode(bytes) {
        assert!(Value::decode(&value.encode()).is_ok());
    }
    let _ = Dictionary::decode(bytes);
    let _ = ServerRecord::decode(bytes);
    let _ = ModelRecord::decode(bytes);
    let _ = peer_text(bytes).map(|text| peer_bytes(&text));

    let copy = Bytes::copy_from_slice(bytes);
    let _ = inference::parse_info(copy.clone());
    let info = proto::ExpertInfo { serialized_info: copy.clone() };
    let _ = inference::parse_info(proto::encode(&info));
    if let Ok(sent) = Hidden::from_f32((1, 2, 4), &[0.0; 8]) {
        let _ = inference::parse_hidden(copy.clone(), &sent);
    }
    if let Ok(tensor) = proto::decode::<Tensor>(copy) {
        if let Ok(decoded) = tensor::decode(&tensor, tensor::Limits::default()) {
            let count: usize = decoded.shape.iter().product();
            assert_eq!(decoded.data.len(), count * decoded.dtype.size());
            let _ = decoded.to_hidden().map(|hidden| hidden.is_finite());
        }
        let mut joiner = tensor::Joiner::new(2, 1000);
        for piece in tensor::split(&tensor, 7) {
            let _ = joiner.push(piece);
        }
        assert!(joiner.finish().len() <= 1);
    }
}

#[test]
fn every_vector_cut_anywhere() {
    for seed in SEEDS.iter().filter(|seed| seed.len() < 500) {
        for end in 0..seed.len() {
            read_as_everything(&seed[..end]);
        }
    }
}

#[test]
fn every_byte_of_every_vector_replaced() {
    for seed in SEEDS.iter().filter(|seed| seed.len() < 300) {
        let mut bytes = seed.clone();
        for at in 0..bytes.len() {
            let held = bytes[at];
            for byte in [0x00, 0x7f, 0x80, 0xff, held ^ 1, held.wrapping_add(8)] {
                bytes[at] = byte;
                read_as_everything(&bytes);
            }
            bytes[at] = held;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn spoilt_vectors(
        seed in 0..SEEDS.len(), at in any::<prop::sample::Index>(), other in 0..SEEDS.len(),
        noise in vec(any::<u8>(), 0..12), cut in any::<prop::sample::Index>(),
    ) {
        let (seed, other) = (&SEEDS[seed], &SEEDS[other]);
        let (at, cut) = (at.index(seed.len()), cut.index(other.len()));
        read_as_everything(&[&seed[..at], &noise[..], &other[cut..]].concat());
        read_as_everything(&[&seed[..at], &noise[..], &seed[(at + noise.len()).min(seed.len())..]].concat());
    }

    #[test]
    fn tensors_of_any_claim(
        size in vec(prop_oneof![0u32..5, any::<u32>()], 0..5), compression in -1..7i32,
        dtype in prop::sample::select(vec!["float32", "float16", "bfloat16", "float64", "int64", "bool", "", "x"]),
        buffer in prop_oneof![
            vec(any::<u8>(), 0..100),
            (0..20i64, 0..20i64, vec(any::<u8>(), 0..200))
                .prop_map(|(a, b, rest)| [&a.to_le_bytes()[..], &b.to_le_bytes(), &rest].concat()),
        ],
    ) {
        let tensor = Tensor { buffer: buffer.into(), size, dtype: dtype.into(), compression, ..Tensor::default() };
        if let Ok(decoded) = tensor::decode(&tensor, tensor::Limits { elements: usize::MAX }) {
            let count: usize = decoded.shape.iter().product();
            prop_assert_eq!(decoded.data.len(), count * decoded.dtype.size());
            prop_assert_eq!(decoded.to_f64().len(), count);
        }
    }
}

#[test]
fn msgpack_that_nests_without_end() {
    for opener in [&[0x91][..], &[0x81, 0xc0], &[0xdd, 0, 0, 0, 1]] {
        let bytes = [&opener.repeat(100_000)[..], &[0xc0]].concat();
        assert!(Value::decode(&bytes).is_err());
    }
    let mut tuples = Value::Nil.encode();
    for _ in 0..40 {
        let array = [&[0x91][..], &tuples].concat();
        tuples = Value::Ext(EXT_TUPLE, array.into()).encode();
    }
    assert!(Value::decode(&tuples).is_err());
}

#[test]
fn msgpack_that_claims_what_is_not_there() {
    for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
        assert!(Value::decode(&[marker, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err(), "{marker:#x}");
    }
    let nils = [&[0xdd, 0, 0x10, 0, 0][..], &vec![0xc0; 1 << 20]].concat();
    assert!(Value::decode(&nils).is_err(), "a mebibyte of nils is 40 in memory");
    let limits = Limits { values: 3, ..Limits::default() };
    assert!(Value::decode_within(&[0x92, 0xc0, 0xc0], limits).is_ok());
    assert!(Value::decode_within(&[0x93, 0xc0, 0xc0, 0xc0], limits).is_err());
    assert!(Value::decode(&[0xc0, 0xc0]).is_err(), "more than one value");
    assert!(Value::decode(&[0xa1, 0xff]).is_err(), "no UTF-8");
    assert!(Value::decode(&[0xc1]).is_err());
    assert!(Value::decode(&[]).is_err());
}

#[test]
fn protobuf_that_repeats_without_end() {
    let results = [0x12, 0x00].repeat(100_000);
    assert!(proto::decode::<proto::FindResponse>(results.clone()).is_err());
    assert!(proto::decode::<proto::ExpertResponse>(results.clone()).is_err());
    assert!(proto::decode::<proto::FindRequest>(results).is_err());
    let sides = [&[0x12, 100][..], &[1; 100]].concat();
    assert!(proto::decode::<Tensor>(sides.clone()).is_err());
    assert!(proto::decode::<proto::ExpertRequest>([&[0x12, 102][..], &sides].concat()).is_err());
    assert!(proto::decode::<proto::StoreResponse>([&[0x12, 0xd0, 0x0f][..], &[1; 2000]].concat()).is_err());
    assert!(proto::decode::<proto::PingRequest>([0x0b].repeat(1000)).is_err(), "groups");
}
