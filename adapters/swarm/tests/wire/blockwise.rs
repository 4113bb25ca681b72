//! BLOCKWISE_8BIT as hivemind and bitsandbytes write and read it (`tests/fixtures/wire/blockwise.json`).

use std::collections::BTreeMap;

use corolla_swarm::wire::{
    proto::{Compression, Tensor},
    tensor::{self, Dtype, Limits},
};
use serde::Deserialize;

use crate::vectors::unhex;

#[derive(Deserialize)]
struct File {
    codebook: String,
    tensors: BTreeMap<String, Vector>,
}

#[derive(Deserialize)]
struct Vector {
    dtype: String,
    size: Vec<u32>,
    /// How many scales, how many codes, the scales.
    head: String,
    indices: String,
    /// The position of the first element of `input` and `decoded`.
    from: usize,
    input: String,
    decoded: String,
}

impl Vector {
    fn tensor(&self, codebook: &str) -> Tensor {
        let buffer = [&self.head, codebook, &self.indices].map(|part| unhex(part).unwrap()).concat();
        let (size, dtype) = (self.size.clone(), self.dtype.clone());
        Tensor { buffer: buffer.into(), size, dtype, compression: Compression::Blockwise8.code(), ..Tensor::default() }
    }

    /// Elements that stand in the file as they are.
    fn numbers(&self, hex: &str) -> Vec<f64> {
        let buffer = unhex(hex).unwrap();
        let count = buffer.len() / Dtype::from_name(&self.dtype).unwrap().size();
        let size = vec![u32::try_from(count).unwrap()];
        let raw = Tensor { buffer: buffer.into(), size, dtype: self.dtype.clone(), ..Tensor::default() };
        tensor::decode(&raw, Limits::default()).unwrap().to_f64()
    }
}

#[test]
fn what_bitsandbytes_wrote_is_read_to_the_bit() {
    let file: File = serde_json::from_str(include_str!("../../../../tests/fixtures/wire/blockwise.json")).unwrap();
    for (name, vector) in &file.tensors {
        let decoded = tensor::decode(&vector.tensor(&file.codebook), Limits::default()).unwrap();
        assert_eq!(decoded.dtype.name(), vector.dtype, "{name}");
        assert_eq!(decoded.shape, vector.size.iter().map(|n| *n as usize).collect::<Vec<_>>(), "{name}");
        let width = decoded.dtype.size();
        assert_eq!(decoded.data[vector.from * width..], unhex(&vector.decoded).unwrap(), "{name}");
        // and that is what was meant: the codes are at most 1.6 % of the largest number apart
        let (found, meant) = (&decoded.to_f64()[vector.from..], vector.numbers(&vector.input));
        let largest = meant.iter().fold(0.0, |most: f64, n| most.max(n.abs()));
        for (one, other) in found.iter().zip(&meant) {
            assert!((one - other).abs() <= 0.016 * largest, "{name}: {one} for {other}");
        }
        assert_eq!(found.len(), meant.len(), "{name}");
    }
    assert_eq!(file.tensors.len(), 6);
}
