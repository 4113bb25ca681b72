//! The ends of a BLOOM of any width, of random numbers, to measure a head with:
//! `cargo run --release -p corolla-candle --example wide_head -- FOLDER ROWS COLS`
//!
//! BLOOM-176B's are 250880 x 14336, 7.2 GB. Numbers are bf16 and near to normal ones; columns differ in size by a
//! log-normal factor, rows by another, and all rows share a part, as in heads that were trained. Of blocks there is one row.

use std::{
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use half::bf16;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("no folder")?;
    let mut number = |what: &str| -> Result<usize, Box<dyn Error>> { Ok(args.next().ok_or(what)?.parse()?) };
    let (rows, cols) = (number("no rows")?, number("no columns")?);
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let heads = cols.div_ceil(128);
    let config = json!({
        "model_type": "bloom", "hidden_size": cols, "n_head": heads, "n_layer": 70, "vocab_size": rows,
        "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string())?;

    let vectors = ["word_embeddings_layernorm.weight", "word_embeddings_layernorm.bias", "ln_f.weight", "ln_f.bias"];
    let mut header = serde_json::Map::new();
    let mut end = 0;
    let mut place = |name: &str, shape: &[usize]| {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.to_owned(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    };
    place("word_embeddings.weight", &[rows, cols]);
    vectors.iter().for_each(|name| place(name, &[cols]));
    // One row of the first block says how blocks would be stored.
    place("h.0.self_attention.query_key_value.weight", &[1, cols]);
    let mut header = Value::Object(header).to_string();
    // Numbers begin where they can be used in place.
    header.push_str(&" ".repeat(64 - (8 + header.len()) % 64));

    let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut noise = Noise(1);
    let sizes: Vec<f32> = (0..cols).map(|_| 0.02 * (0.3 * noise.normal()).exp()).collect();
    let shared: Vec<f32> = sizes.iter().map(|size| 0.3 * size * noise.normal()).collect();
    for _ in 0..rows {
        let size = (0.25 * noise.normal()).exp();
        let row = sizes.iter().zip(&shared).map(|(column, shared)| shared + size * column * noise.normal());
        write(&mut file, row)?;
    }
    for name in vectors.into_iter().chain(["one row of a block"]) {
        let value = if name.ends_with("weight") { 1.0 } else { 0.0 };
        write(&mut file, (0..cols).map(|_| value))?;
    }
    file.flush()?;
    Ok(())
}

fn write(file: &mut impl Write, numbers: impl Iterator<Item = f32>) -> std::io::Result<()> {
    let bytes: Vec<u8> = numbers.flat_map(|number| bf16::from_f32(number).to_le_bytes()).collect();
    file.write_all(&bytes)
}

/// Numbers without a pattern.
struct Noise(u64);

impl Noise {
    /// Four uniform numbers added up: near enough to a normal one of variance 1.
    fn normal(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let quarters = self.0.to_le_bytes();
        let quarter =
            |at: usize| f32::from(u16::from_le_bytes([quarters[2 * at], quarters[2 * at + 1]])) / 65536.0 - 0.5;
        (quarter(0) + quarter(1) + quarter(2) + quarter(3)) * 1.732_050_8
    }
}
