//! Tiny models as GGUF files.

use std::{fs::File, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use testkit::tiny::Tiny;

/// A GGUF file with matrices of that type, named and ordered as llama.cpp's converter does it.
pub(crate) fn write_gguf(tiny: &Tiny, path: &Path, dtype: GgmlDType) {
    let number = |key: &str| tiny.config[key].as_u64().map(|n| gguf_file::Value::U32(u32::try_from(n).unwrap()));
    let family = tiny.config["model_type"].as_str().unwrap();
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
    for (name, (shape, numbers)) in &tiny.tensors {
        let tensor = Tensor::from_vec(reordered(tiny, name, shape, numbers), &shape[..], &Device::Cpu).unwrap();
        let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
        tensors.push((gguf_name(name), QTensor::quantize(&tensor, dtype).unwrap()));
    }
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (&**key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn reordered(tiny: &Tiny, name: &str, shape: &[usize], numbers: &[f32]) -> Vec<f32> {
    let heads = |key: &str| tiny.config[key].as_u64().unwrap() as usize;
    let row = numbers.len() / shape[0];
    let rows = |order: Vec<usize>| order.into_iter().flat_map(|r| numbers[r * row..(r + 1) * row].to_vec()).collect();
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
