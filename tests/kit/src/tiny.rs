//! Tiny random models, made when a test wants them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a model that cannot be made ends the test")]

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::local_model::noise;

pub use safetensors::Dtype;

/// A model in the layout of Hugging Face.
pub struct Tiny {
    /// `config.json`.
    pub config: Value,
    /// Shapes and numbers, by name.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// Measures of a model to make.
#[derive(Clone, Copy)]
pub struct Size {
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
    /// Heads that ask.
    pub heads: usize,
    /// Heads with keys and values.
    pub kv: usize,
    /// Blocks.
    pub blocks: usize,
}

const VOCAB: usize = 96;

impl Tiny {
    /// A Llama.
    #[must_use]
    pub fn llama(size: Size) -> Self {
        let config = json!({
            "model_type": "llama", "hidden_size": size.hidden, "intermediate_size": size.inner,
            "num_hidden_layers": size.blocks, "num_attention_heads": size.heads, "num_key_value_heads": size.kv,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512, "vocab_size": VOCAB,
            "bos_token_id": 1, "eos_token_id": [2, 3],
        });
        let mut tiny = Self { config, tensors: BTreeMap::new() };
        let kv = size.hidden / size.heads * size.kv;
        tiny.matrix("model.embed_tokens", VOCAB, size.hidden);
        tiny.matrix("lm_head", VOCAB, size.hidden);
        tiny.norm("model.norm", size.hidden, false);
        for block in 0..size.blocks {
            let name = |part: &str| format!("model.layers.{block}.{part}");
            tiny.norm(&name("input_layernorm"), size.hidden, false);
            tiny.norm(&name("post_attention_layernorm"), size.hidden, false);
            tiny.matrix(&name("self_attn.q_proj"), size.hidden, size.hidden);
            tiny.matrix(&name("self_attn.k_proj"), kv, size.hidden);
            tiny.matrix(&name("self_attn.v_proj"), kv, size.hidden);
            tiny.matrix(&name("self_attn.o_proj"), size.hidden, size.hidden);
            tiny.matrix(&name("mlp.gate_proj"), size.inner, size.hidden);
            tiny.matrix(&name("mlp.up_proj"), size.inner, size.hidden);
            tiny.matrix(&name("mlp.down_proj"), size.hidden, size.inner);
        }
        tiny
    }

    /// A BLOOM.
    #[must_use]
    pub fn bloom(hidden: usize, heads: usize, blocks: usize) -> Self {
        let config = json!({
            "model_type": "bloom", "hidden_size": hidden, "n_layer": blocks, "n_head": heads,
            "layer_norm_epsilon": 1e-5, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2,
        });
        let mut tiny = Self { config, tensors: BTreeMap::new() };
        tiny.matrix("word_embeddings", VOCAB, hidden);
        tiny.norm("word_embeddings_layernorm", hidden, true);
        tiny.norm("ln_f", hidden, true);
        for block in 0..blocks {
            let name = |part: &str| format!("h.{block}.{part}");
            tiny.norm(&name("input_layernorm"), hidden, true);
            tiny.norm(&name("post_attention_layernorm"), hidden, true);
            for (part, rows, cols) in [
                ("self_attention.query_key_value", 3 * hidden, hidden),
                ("self_attention.dense", hidden, hidden),
                ("mlp.dense_h_to_4h", 4 * hidden, hidden),
                ("mlp.dense_4h_to_h", hidden, 4 * hidden),
            ] {
                tiny.matrix(&name(part), rows, cols);
                tiny.vector(&format!("{}.bias", name(part)), rows, 0.0);
            }
        }
        tiny
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) {
        let scale = 1.5 / (cols as f32).sqrt();
        let numbers = noise(rows * cols, self.tensors.len() as u64).into_iter().map(|v| v * scale).collect();
        self.tensors.insert(format!("{name}.weight"), (vec![rows, cols], numbers));
    }

    fn vector(&mut self, name: &str, len: usize, around: f32) {
        let numbers = noise(len, self.tensors.len() as u64).into_iter().map(|v| around + 0.1 * v).collect();
        self.tensors.insert(name.to_owned(), (vec![len], numbers));
    }

    fn norm(&mut self, name: &str, width: usize, shifted: bool) {
        self.vector(&format!("{name}.weight"), width, 1.0);
        if shifted {
            self.vector(&format!("{name}.bias"), width, 0.0);
        }
    }

    /// Writes `config.json` and one safetensors file, or several with an index.
    ///
    /// # Panics
    /// Where the files cannot be written.
    pub fn write_folder(&self, folder: &Path, dtype: Dtype, shards: usize) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let bytes: BTreeMap<_, _> =
            self.tensors.iter().map(|(name, (_, numbers))| (name, stored(numbers, dtype))).collect();
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, _))| (&**name, TensorView::new(dtype, shape.clone(), &bytes[name]).unwrap()))
            .collect();
        if shards == 1 {
            safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
            return;
        }
        let mut map = HashMap::new();
        for (nth, some) in views.chunks(views.len().div_ceil(shards)).enumerate() {
            let file = format!("model-{nth}.safetensors");
            map.extend(some.iter().map(|(name, _)| ((*name).to_owned(), file.clone())));
            safetensors::serialize_to_file(some.iter().map(|(n, v)| (*n, v)), None, &folder.join(file)).unwrap();
        }
        std::fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    }
}

fn stored(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        other => panic!("no checkpoint in {other:?}"),
    }
}
