//! Codecs of tensors.

use bytes::Bytes;
use corolla_domain::model::{ElementType, Hidden};
use corolla_swarm::wire::{
    proto::{self, Compression, Tensor},
    tensor::{self, CHUNK, Dtype, Joiner, Limits},
};

use crate::vectors::{bytes, entries, json, unhex};

const CODECS: [Compression; 6] = [
    Compression::None,
    Compression::MeanStd16,
    Compression::Float16,
    Compression::Quantile8,
    Compression::Uniform8,
    Compression::Blockwise8,
];

/// A tensor of one axis.
fn flat(count: u32, dtype: &str, compression: Compression, buffer: Vec<u8>) -> Tensor {
    let (size, dtype) = (vec![count], dtype.to_owned());
    Tensor { buffer: buffer.into(), size, dtype, compression: compression.code(), ..Tensor::default() }
}

fn values(tensor: &Tensor) -> Option<Vec<f64>> {
    tensor::decode(tensor, Limits::default()).ok().map(|t| t.to_f64())
}

fn singles(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn every_codec_of_the_reference_is_read_to_the_bit() {
    let mut seen = 0;
    for (name, vector) in entries("/tensors") {
        let Some(packed) = vector["protobuf"].as_str().and_then(unhex) else {
            assert!(name.starts_with("err_"), "{name} is no vector");
            continue;
        };
        let tensor: Tensor = proto::decode(packed.clone()).unwrap();
        assert_eq!(proto::encode(&tensor), packed, "{name}");
        assert_eq!(tensor.buffer, vector["buffer"].as_str().and_then(unhex).expect("hex"), "{name}");
        assert_eq!(Some(tensor.requires_grad), vector["requires_grad"].as_bool(), "{name}");
        let decoded = tensor::decode(&tensor, Limits::default()).unwrap();
        assert_eq!(Some(decoded.dtype.name()), vector["dtype"].as_str(), "{name}");
        let numbers = |key: &str| -> Vec<f64> {
            vector[key].as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
        };
        assert_eq!(decoded.shape.iter().map(|n| *n as f64).collect::<Vec<_>>(), numbers("size"), "{name}");
        // every vector holds singles at most, and JSON numbers are read to within their last digit
        let narrow = |numbers: Vec<f64>| numbers.into_iter().map(|n| n as f32).collect::<Vec<_>>();
        assert_eq!(narrow(decoded.to_f64()), narrow(numbers("decoded")), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 17);
}

#[test]
fn what_the_reference_writes_is_written_byte_for_byte() {
    for (name, element, compression) in [
        ("none_float32", ElementType::F32, Compression::None),
        ("none_float16", ElementType::F16, Compression::None),
        ("none_bfloat16_native", ElementType::Bf16, Compression::None),
        ("float16_from_float32", ElementType::F32, Compression::Float16),
        ("float16_from_float16", ElementType::F16, Compression::Float16),
        ("meanstd16_from_float32", ElementType::F32, Compression::MeanStd16),
        ("uniform8_from_float32", ElementType::F32, Compression::Uniform8),
    ] {
        let input = json(&format!("/tensors/{name}/input")).as_array().expect("a list");
        let input: Vec<f32> = input.iter().map(|v| v.as_f64().expect("a number") as f32).collect();
        let data: Bytes = match element {
            ElementType::F32 => singles(&input).into(),
            ElementType::F16 => input.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            ElementType::Bf16 => input.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        let hidden = Hidden::new((1, input.len() / 4, 4), element, data).unwrap();
        let mut tensor = tensor::encode(&hidden, compression).unwrap();
        if compression != Compression::None {
            tensor.size.remove(0); // these vectors have two sides
        }
        assert_eq!(proto::encode(&tensor), bytes(&format!("/tensors/{name}/protobuf")), "{name}");
    }
    for (name, dtype) in [("dummy_float32_empty", Dtype::F32), ("dummy_int64_empty", Dtype::I64)] {
        assert_eq!(proto::encode(&tensor::dummy(dtype)), bytes(&format!("/tensors/{name}/protobuf")));
    }
    assert_eq!(proto::encode(&tensor::encode_i64(&[0, 1, -1])), bytes("/tensors/none_int64/protobuf"));
}

#[test]
fn what_no_server_reads_is_not_written() {
    let hidden = Hidden::new((1, 1, 1), ElementType::Bf16, vec![0, 0].into()).unwrap();
    for compression in &CODECS[1..] {
        assert!(tensor::encode(&hidden, *compression).is_err(), "{compression:?}");
    }
}

#[test]
fn blockwise_scales_every_4096_elements() {
    // lengths that bitsandbytes does not write; what it does write is in `blockwise`
    let mut buffer = [2i64, 3].map(i64::to_le_bytes).concat();
    buffer.extend(singles(&[2.0, 10.0]));
    buffer.extend(singles(&[-1.0, 0.0, 0.5]));
    buffer.extend((0..4098).map(|i| (i % 3) as u8));
    let decoded = values(&flat(4098, "float32", Compression::Blockwise8, buffer.clone())).unwrap();
    assert_eq!(decoded[..3], [-2.0, 0.0, 1.0]);
    assert_eq!(decoded[4094..], [1.0, -2.0, 0.0, 5.0]);

    let claims = |scales: i64, book: i64| {
        let mut claims = buffer.clone();
        claims[..16].copy_from_slice(&[scales, book].map(i64::to_le_bytes).concat());
        values(&flat(4098, "float32", Compression::Blockwise8, claims))
    };
    assert!(claims(2, 3).is_some());
    for (scales, book) in [(1, 3), (3, 3), (-1, 3), (2, -1), (2, i64::MAX), (i64::MAX, 3), (2, 2), (2, 0)] {
        assert_eq!(claims(scales, book), None, "{scales} scales, {book} entries");
    }
}

#[test]
fn codebooks_have_the_length_they_say() {
    let tensor = |size: i64, book: &[f32], indices: &[u8]| {
        let buffer = [&size.to_le_bytes()[..], &singles(book), indices].concat();
        values(&flat(2, "float16", Compression::Uniform8, buffer))
    };
    assert_eq!(tensor(2, &[0.5, -2.0], &[1, 0]), Some(vec![-2.0, 0.5]));
    assert_eq!(tensor(2, &[0.5, -2.0], &[1, 2]), None);
    assert_eq!(tensor(3, &[0.5, -2.0], &[1, 0]), None);
    assert_eq!(tensor(-1, &[0.5, -2.0], &[1, 0]), None);
    assert_eq!(tensor(i64::MAX, &[0.5, -2.0], &[1, 0]), None);
    assert_eq!(tensor(0, &[], &[0, 0]), None);
}

#[test]
fn shapes_and_buffers_must_agree() {
    for compression in CODECS {
        for count in [1, 3, u32::MAX] {
            assert_eq!(values(&flat(count, "float32", compression, vec![0; 9])), None, "{compression:?} {count}");
        }
        let vast = Tensor { size: vec![u32::MAX; 8], ..flat(0, "float32", compression, Vec::new()) };
        assert_eq!(values(&vast), None);
        let unbounded = Limits { elements: usize::MAX };
        assert!(tensor::decode(&vast, unbounded).is_err());
        let many_rows = Tensor { size: vec![u32::MAX, u32::MAX, 0], ..vast };
        let no_rows_needed = matches!(compression, Compression::None | Compression::Float16);
        assert_eq!(tensor::decode(&many_rows, unbounded).is_ok(), no_rows_needed, "{compression:?}");
        assert_eq!(values(&flat(1, "int64", compression, vec![0; 8])).is_some(), compression == Compression::None);
    }
    assert_eq!(values(&flat(1, "complex64", Compression::None, vec![0; 8])), None);
    assert_eq!(values(&Tensor { compression: 6, ..flat(1, "float32", Compression::None, vec![0; 4]) }), None);
    assert_eq!(values(&Tensor { size: vec![], ..flat(0, "float32", Compression::MeanStd16, vec![0; 10]) }), None);
    let limits = Limits { elements: 3 };
    assert!(tensor::decode(&flat(4, "uint8", Compression::None, vec![0; 4]), limits).is_err());
}

#[test]
fn legacy_bfloat16_is_rounded() {
    let tensor = flat(2, "bfloat16", Compression::None, singles(&[1.0, 1.003_906_4]));
    assert_eq!(values(&tensor), Some(vec![1.0, 1.007_812_5]));
}

#[test]
fn tensors_are_split_and_joined_as_the_reference_does() {
    let parts = json("/split_for_streaming_16").get("parts").and_then(|p| p.as_array()).expect("a list");
    let parts: Vec<_> = parts.iter().map(|p| p.as_str().and_then(unhex).expect("hex")).collect();
    let mut joiner = Joiner::new(2, 1000);
    for part in &parts {
        joiner.push(proto::decode(part.clone()).unwrap()).unwrap();
    }
    let empty = json("/split_for_streaming_empty")[0].as_str().and_then(unhex).expect("hex");
    joiner.push(proto::decode(empty.clone()).unwrap()).unwrap();
    let [whole, none] = &joiner.finish()[..] else { panic!("two tensors") };
    assert_eq!(values(whole).unwrap(), (0..whole.size[0]).map(f64::from).collect::<Vec<_>>());
    assert_eq!(*none, tensor::dummy(Dtype::F32));
    let split: Vec<_> = tensor::split(whole, 16).iter().map(|p| proto::encode(p).to_vec()).collect();
    assert_eq!(split, parts);
    assert_eq!(proto::encode(&tensor::split(none, CHUNK)[0]), empty);
}

#[test]
fn pieces_are_bounded() {
    let piece = |dtype: &str, bytes: usize| flat(1, dtype, Compression::None, vec![0; bytes]);
    assert!(Joiner::new(1, 8).push(piece("", 1)).is_err(), "nothing has begun");
    let mut joiner = Joiner::new(1, 8);
    joiner.push(piece("float32", 4)).unwrap();
    joiner.push(piece("", 4)).unwrap();
    assert!(joiner.push(piece("", 1)).is_err(), "too many bytes");
    assert!(joiner.push(piece("float32", 0)).is_err(), "too many tensors");
}
