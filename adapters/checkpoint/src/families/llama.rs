//! Llama (Touvron et al., 2023) and what followed: rotary positions, RMS norms, gated feed-forward layers, heads that share
//! keys and values.

use corolla_domain::ports::PortError;

use super::{
    Description, EndNames, Heads, Linear, MAX_BLOCKS, MAX_HIDDEN, MAX_INNER, MAX_POSITIONS, NormKind, Positions,
    RowOrder, rope::Rope,
};
use crate::{fault::unsupported, settings::Settings, tensors::Tensors, weights::Weights};

/// The layers of a Llama block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaBlock {
    /// The norm before attention.
    pub attention_norm: String,
    /// To queries.
    pub query: Linear,
    /// To keys.
    pub key: Linear,
    /// To values.
    pub value: Linear,
    /// From mixed values back to the hidden state.
    pub output: Linear,
    /// The norm before the feed-forward layers.
    pub inner_norm: String,
    /// To the numbers whose SiLU scales those of `up`.
    pub gate: Linear,
    /// Into the feed-forward layer.
    pub up: Linear,
    /// Out of it.
    pub down: Linear,
}

/// What distinguishes one Llama's blocks from another's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layers {
    inner: usize,
    gguf: bool,
}

pub(super) fn describe(
    settings: &Settings<'_>,
    tensors: Tensors<'_>,
    weights: &dyn Weights,
) -> Result<Description, PortError> {
    if let Some(other) = settings.text(&["hidden_act"]).filter(|act| *act != "silu") {
        return Err(unsupported(settings.fault(format!("hidden_act {other:?} is not supported")).context()));
    }
    if settings.size(&["llama.expert_count"], MAX_HIDDEN).is_ok_and(|experts| experts.is_some()) {
        return Err(unsupported(settings.fault("mixtures of experts are not supported").context()));
    }
    let hidden = settings.required(&["hidden_size", "llama.embedding_length"], MAX_HIDDEN)?;
    let query = settings.required(&["num_attention_heads", "llama.attention.head_count"], MAX_HIDDEN)?;
    let kv = settings.size(&["num_key_value_heads", "llama.attention.head_count_kv"], MAX_HIDDEN)?.unwrap_or(query);
    let dim = settings.size(&["head_dim", "llama.attention.key_length"], MAX_HIDDEN)?;
    if dim.is_none() && !hidden.is_multiple_of(query) {
        return Err(settings.fault(format!("{query} heads cannot share a width of {hidden}")));
    }
    let dim = dim.unwrap_or(hidden / query);
    if !dim.is_multiple_of(2) || !query.is_multiple_of(kv) || query.saturating_mul(dim) > MAX_HIDDEN {
        return Err(settings.fault(format!("{query} heads of {dim} numbers over {kv} key heads are impossible")));
    }
    if settings.size(&["llama.rope.dimension_count"], MAX_HIDDEN)?.is_some_and(|turned| turned != dim) {
        return Err(unsupported(settings.fault("heads that turn only in part are not supported").context()));
    }
    let eps = settings.number(&["rms_norm_eps", "llama.attention.layer_norm_rms_epsilon"])?.unwrap_or(1e-6);
    let gguf = settings.are_gguf();
    let embedding = if gguf { "token_embd.weight" } else { "model.embed_tokens.weight" };
    let tied = if gguf {
        weights.view("output.weight")?.is_none()
    } else {
        settings.flag("tie_word_embeddings")?.unwrap_or(false)
    };
    let untied = if gguf { "output.weight" } else { "lm_head.weight" };
    let heads = Heads { query, kv, dim };
    let divisors = tensors.optional_vector("rope_freqs.weight", dim / 2)?;
    Ok(Description {
        family: "llama",
        hidden,
        blocks: settings.required(&["num_hidden_layers", "llama.block_count"], MAX_BLOCKS)?,
        max_positions: settings.size(&["max_position_embeddings", "llama.context_length"], MAX_POSITIONS)?,
        heads,
        norm: NormKind::Rms,
        eps: eps as f32,
        positions: Positions::Rope(Rope::read(settings)?.frequencies(dim, divisors.as_deref())),
        ends: EndNames {
            embedding: embedding.to_owned(),
            embedding_norm: None,
            last_norm: if gguf { "output_norm" } else { "model.norm" }.to_owned(),
            head: if tied { embedding } else { untied }.to_owned(),
        },
        layers: super::Layers::Llama(Layers {
            inner: settings.required(&["intermediate_size", "llama.feed_forward_length"], MAX_INNER)?,
            gguf,
        }),
    })
}

impl Layers {
    pub(super) fn block(&self, index: usize, model: &Description) -> LlamaBlock {
        let name = |gguf: &str, folder: &str| {
            if self.gguf { format!("blk.{index}.{gguf}") } else { format!("model.layers.{index}.{folder}") }
        };
        let Heads { query, kv, dim } = model.heads;
        let (hidden, inner) = (model.hidden, self.inner);
        let turned = if self.gguf { RowOrder::Neighbours { dim } } else { RowOrder::AsStored };
        LlamaBlock {
            attention_norm: name("attn_norm", "input_layernorm"),
            query: Linear { order: turned, ..Linear::new(name("attn_q", "self_attn.q_proj"), query * dim, hidden) },
            key: Linear { order: turned, ..Linear::new(name("attn_k", "self_attn.k_proj"), kv * dim, hidden) },
            value: Linear::new(name("attn_v", "self_attn.v_proj"), kv * dim, hidden),
            output: Linear::new(name("attn_output", "self_attn.o_proj"), hidden, query * dim),
            inner_norm: name("ffn_norm", "post_attention_layernorm"),
            gate: Linear::new(name("ffn_gate", "mlp.gate_proj"), inner, hidden),
            up: Linear::new(name("ffn_up", "mlp.up_proj"), inner, hidden),
            down: Linear::new(name("ffn_down", "mlp.down_proj"), hidden, inner),
        }
    }
}
