//! Tiny random models, written in every format.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::Path,
};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use testkit::local_model::noise;

/// A model in the layout of Hugging Face.
pub(crate) struct Tiny {
    pub config: Value,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// Measures of a model to make.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv: usize,
    pub blocks: usize,
}

const VOCAB: usize = 96;

impl Tiny {
    pub(crate) fn llama(size: Size) -> Self {
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

    pub(crate) fn bloom(hidden: usize, heads: usize, blocks: usize) -> Self {
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

    /// `config.json` and one safetensors file, or several with an index.
    pub(crate) fn write_folder(&self, folder: &Path, dtype: Dtype, shards: usize) {
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

    /// A GGUF file with matrices of that type, named and ordered as llama.cpp's converter does it.
    pub(crate) fn write_gguf(&self, path: &Path, dtype: GgmlDType) {
        let number = |key: &str| self.config[key].as_u64().map(|n| gguf_file::Value::U32(u32::try_from(n).unwrap()));
        let family = self.config["model_type"].as_str().unwrap();
        let mut metadata = vec![("general.architecture".to_owned(), gguf_file::Value::String(family.to_owned()))];
        for (key, names) in [
            ("embedding_length", ["hidden_size", ""]),
            ("block_count", ["num_hidden_layers", "n_layer"]),
            ("feed_forward_length", ["intermediate_size", ""]),
            ("attention.head_count", ["num_attention_heads", "n_head"]),
            ("attention.head_count_kv", ["num_key_value_heads", "n_head"]),
            ("context_length", ["max_position_embeddings", ""]),
        ] {
            let value = names.iter().find_map(|name| number(name));
            metadata.extend(value.map(|value| (format!("{family}.{key}"), value)));
        }
        let eps = if family == "llama" { "layer_norm_rms_epsilon" } else { "layer_norm_epsilon" };
        metadata.push((format!("{family}.attention.{eps}"), gguf_file::Value::F32(1e-5)));
        metadata.push(("tokenizer.ggml.eos_token_id".to_owned(), gguf_file::Value::U32(2)));
        let mut tensors = Vec::new();
        for (name, (shape, numbers)) in &self.tensors {
            let tensor = Tensor::from_vec(self.reordered(name, shape, numbers), &shape[..], &Device::Cpu).unwrap();
            let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
            tensors.push((gguf_name(name), QTensor::quantize(&tensor, dtype).unwrap()));
        }
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (&**key, value)).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    fn reordered(&self, name: &str, shape: &[usize], numbers: &[f32]) -> Vec<f32> {
        let heads = |key: &str| self.config[key].as_u64().unwrap() as usize;
        let row = numbers.len() / shape[0];
        let rows =
            |order: Vec<usize>| order.into_iter().flat_map(|r| numbers[r * row..(r + 1) * row].to_vec()).collect();
        if name.contains("q_proj") || name.contains("k_proj") {
            let heads = heads(if name.contains("q_proj") { "num_attention_heads" } else { "num_key_value_heads" });
            let dim = shape[0] / heads;
            return rows((0..shape[0]).map(|r| r / dim * dim + r % 2 * (dim / 2) + r % dim / 2).collect());
        }
        if name.contains("query_key_value") {
            let (hidden, dim) = (shape[0] / 3, shape[0] / 3 / heads("n_head"));
            return rows((0..shape[0]).map(|r| (r % hidden / dim * 3 + r / hidden) * dim + r % dim).collect());
        }
        numbers.to_vec()
    }
}

fn gguf_name(name: &str) -> String {
    let (stem, kind) = name.rsplit_once('.').unwrap();
    let block = stem.split('.').find_map(|part| part.parse::<usize>().ok());
    let part = match stem.rsplit('.').next().unwrap() {
        "embed_tokens" | "word_embeddings" => "token_embd",
        "word_embeddings_layernorm" => "token_embd_norm",
        "lm_head" => "output",
        "norm" | "ln_f" => "output_norm",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "q_proj" => "attn_q",
        "k_proj" => "attn_k",
        "v_proj" => "attn_v",
        "query_key_value" => "attn_qkv",
        "o_proj" | "dense" => "attn_output",
        "gate_proj" => "ffn_gate",
        "up_proj" | "dense_h_to_4h" => "ffn_up",
        "down_proj" | "dense_4h_to_h" => "ffn_down",
        other => panic!("no GGUF name for {other}"),
    };
    block.map_or_else(|| format!("{part}.{kind}"), |block| format!("blk.{block}.{part}.{kind}"))
}

fn stored(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        other => panic!("no checkpoint in {other:?}"),
    }
}
