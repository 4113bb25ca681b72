//! What a GGUF file says comes out, and no file, however broken, makes the parser panic.

use corolla_gguf::{Array, Gguf, GgufError, Value};
use proptest::prelude::*;

/// Writes files for the tests: only what they need, and also what the format forbids.
#[derive(Default)]
struct File {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn array(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), items].concat()
}

impl File {
    fn typed(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&string(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn array(mut self, key: &str, kind: u32, count: u64, items: &[u8]) -> Self {
        self.pairs.push([string(key), array(kind, count, items)].concat());
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let mut entry = string(name);
        entry.extend((dims.len() as u32).to_le_bytes());
        entry.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 7);
        bytes
    }
}

fn small() -> File {
    let names = [string("a"), string(""), string("žluť")].concat();
    let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    File::default()
        .typed("general.architecture", 8, &string("llama"))
        .typed("blocks", 5, &30i32.to_le_bytes())
        .typed("wide", 10, &u64::MAX.to_le_bytes())
        .typed("negative", 1, &[0xff])
        .typed("theta", 6, &0.5f32.to_le_bytes())
        .typed("flag", 7, &[1])
        .array("names", 8, 3, &names)
        .array("scores", 6, 2, &floats)
        .array("types", 5, 2, &[1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff])
        .array("nested", 9, 1, &array(4, 1, &9u32.to_le_bytes())[4..])
        .tensor("z", &[32, 3], 3, 0)
        .tensor("b", &[5], 0, 64)
        .data(84)
}

#[test]
fn everything_written_is_read() {
    let bytes = small().bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.metadata().len(), 10);
    assert_eq!(gguf.str("general.architecture"), Some("llama"));
    assert_eq!(gguf.u64("blocks"), Some(30));
    assert_eq!(gguf.u64("wide"), Some(u64::MAX));
    assert_eq!(gguf.u64("negative"), None);
    assert_eq!(gguf.metadata()["negative"], Value::Int(-1));
    assert_eq!(gguf.f32("theta"), Some(0.5));
    assert_eq!(gguf.bool("flag"), Some(true));
    assert_eq!(gguf.strings("names").unwrap().iter().collect::<Vec<_>>(), ["a", "", "žluť"]);
    assert_eq!(gguf.strings("names").unwrap().get(3), None);
    assert_eq!(gguf.floats("scores"), Some(vec![1.5, -2.0]));
    assert_eq!(gguf.ints("types"), Some(vec![1, -2]));
    assert_eq!(gguf.ints("scores"), None);
    let Value::Array(Array::Nested(nested)) = &gguf.metadata()["nested"] else { panic!("not nested") };
    assert!(matches!(&nested[0], Array::Numbers(n) if n.iter().eq([Value::Uint(9)])));
    assert_eq!(gguf.tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["z", "b"]);
    let (z, b, base) = (gguf.tensor("z").unwrap(), gguf.tensor("b").unwrap(), bytes.len() - 84);
    assert_eq!((&z.shape[..], z.ggml_type, z.data.clone()), (&[3, 32][..], 3, base..base + 60));
    assert_eq!((&b.shape[..], b.data.clone()), (&[5][..], base + 64..base + 84));
    assert_eq!(gguf.tensor("nobody"), None);
}

#[test]
fn the_head_of_a_file_is_enough() {
    let bytes = small().bytes();
    let head = bytes.len() - 84;
    assert_eq!(Gguf::parse_head(&bytes[..head], bytes.len()), Gguf::parse(&bytes));
    assert!(matches!(Gguf::parse_head(&bytes[..head / 2], bytes.len()), Err(GgufError::Truncated { .. })));
}

#[test]
fn alignment_is_honoured() {
    let file = File::default().typed("general.alignment", 4, &64u32.to_le_bytes()).tensor("t", &[1], 0, 0);
    let mut bytes = file.bytes();
    let base = bytes.len().next_multiple_of(64);
    bytes.resize(base + 4, 0);
    assert_eq!(Gguf::parse(&bytes).unwrap().tensor("t").unwrap().data, base..base + 4);
}

#[test]
fn refusals_name_what_is_wrong() {
    let deep = (0..4).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner[4..]));
    let cases = [
        (b"GGML\0\0\0\0".to_vec(), "begin with the letters GGUF"),
        (b"GGUF\x01\0\0\0".to_vec(), "version 1 is not supported"),
        (b"GGUF\0\0\0\x03".to_vec(), "version 50331648 is not supported"),
        (File::default().array("k", 8, u64::MAX, &[]).bytes(), "ends within k"),
        (File::default().array("k", 4, 1 << 40, &[0; 64]).bytes(), "ends within k"),
        (File::default().array("k", 9, 1, &deep[4..]).bytes(), "k: arrays are nested deeper"),
        (File::default().typed("k", 13, &[]).bytes(), "k: there is no value type 13"),
        (File::default().typed("k", 7, &[2]).bytes(), "k: a truth value"),
        (File::default().typed("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).bytes(), "k: a string is not UTF-8"),
        (File::default().typed("k", 0, &[1]).typed("k", 0, &[2]).bytes(), "k: the key stands there twice"),
        (File::default().typed("general.alignment", 4, &[0; 4]).bytes(), "general.alignment"),
        (File::default().typed("general.alignment", 4, &[24, 0, 0, 0]).bytes(), "no power of two"),
        (File::default().tensor("t", &[32], 999, 0).data(64).bytes(), "tensor t is stored as ggml type 999"),
        (File::default().tensor("t", &[33], 2, 0).data(64).bytes(), "tensor t: rows of 33"),
        (File::default().tensor("t", &[8], 0, 4).data(64).bytes(), "tensor t: its offset 4"),
        (File::default().tensor("t", &[17], 0, 0).data(64).bytes(), "ends within tensor t"),
        (File::default().tensor("t", &[1 << 40, 1 << 40], 0, 0).bytes(), "tensor t: its size"),
        (File::default().tensor("t", &[u64::MAX], 0, 32).bytes(), "tensor t: its size"),
        (File::default().tensor("t", &[1, 1, 1, 1, 1], 0, 0).data(64).bytes(), "tensor t: 5 dimensions"),
        (File::default().tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).data(64).bytes(), "tensor t: it stands"),
    ];
    for (bytes, wanted) in cases {
        let said = Gguf::parse(&bytes).unwrap_err().to_string();
        assert!(said.contains(wanted), "`{said}` should say `{wanted}`");
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small().bytes();
    for end in 0..bytes.len() {
        let refused = Gguf::parse(&bytes[..end]).unwrap_err();
        assert!(matches!(refused, GgufError::Truncated { .. } | GgufError::Magic), "{end}: {refused}");
    }
}

#[test]
fn no_corrupted_byte_panics_or_points_outside() {
    let whole = small().bytes();
    for at in 0..whole.len() - 84 {
        for byte in 0..=255 {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            check(&bytes);
        }
    }
}

fn check(bytes: &[u8]) {
    if let Ok(gguf) = Gguf::parse(bytes) {
        for tensor in gguf.tensors() {
            assert!(tensor.data.start <= tensor.data.end && tensor.data.end <= bytes.len());
            assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&tail);
        check(&[b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0", &tail[..]].concat());
    }

    #[test]
    fn several_corrupted_bytes_never_panic(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = small().bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check(&bytes);
    }
}
