//! Llama 2, 3 and those built like them: rotary positions, shared key heads, gated feed-forward layers.

use std::ops::Range;

use corolla_domain::ports::PortError;

use super::{
    Family, MAX_BLOCKS, MAX_HIDDEN, MAX_INNER, MAX_POSITIONS, MAX_VOCAB, Outline, Step,
    rope::{Rope, angles},
};
use crate::{
    attention::{Heads, attend},
    fault::unsupported,
    kv_cache::BlockCache,
    matrix::{Linear, Loader, Matrix},
    norm::{RmsNorm, add, silu},
    settings::Settings,
    weights::Weights,
};

/// What distinguishes one Llama from another.
pub(super) struct Shape {
    hidden: usize,
    inner: usize,
    heads: Heads,
    blocks: usize,
    max_positions: Option<usize>,
    eps: f32,
    rope: Rope,
    gguf: bool,
    embedding: &'static str,
    head: &'static str,
}

impl Shape {
    pub(super) fn read(settings: &Settings<'_>, weights: &dyn Weights) -> Result<Self, PortError> {
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
        Ok(Self {
            hidden,
            inner: settings.required(&["intermediate_size", "llama.feed_forward_length"], MAX_INNER)?,
            heads: Heads { query, kv, dim },
            blocks: settings.required(&["num_hidden_layers", "llama.block_count"], MAX_BLOCKS)?,
            max_positions: settings.size(&["max_position_embeddings", "llama.context_length"], MAX_POSITIONS)?,
            eps: eps as f32,
            rope: Rope::read(settings)?,
            gguf,
            embedding,
            head: if tied { embedding } else { untied },
        })
    }

    pub(super) fn outline(&self) -> Outline {
        Outline {
            family: "llama",
            hidden: self.hidden,
            blocks: self.blocks,
            max_positions: self.max_positions,
            kv_heads: self.heads.kv,
            head_dim: self.heads.dim,
            embedding: self.embedding.to_owned(),
            head: self.head.to_owned(),
            sample: format!("{}.weight", self.in_block(0, Part::Query)),
        }
    }

    fn in_block(&self, index: usize, part: Part) -> String {
        let (gguf, folder) = match part {
            Part::AttentionNorm => ("attn_norm", "input_layernorm"),
            Part::Query => ("attn_q", "self_attn.q_proj"),
            Part::Key => ("attn_k", "self_attn.k_proj"),
            Part::Value => ("attn_v", "self_attn.v_proj"),
            Part::Output => ("attn_output", "self_attn.o_proj"),
            Part::InnerNorm => ("ffn_norm", "post_attention_layernorm"),
            Part::Gate => ("ffn_gate", "mlp.gate_proj"),
            Part::Up => ("ffn_up", "mlp.up_proj"),
            Part::Down => ("ffn_down", "mlp.down_proj"),
        };
        if self.gguf { format!("blk.{index}.{gguf}") } else { format!("model.layers.{index}.{folder}") }
    }

    fn last_norm(&self) -> &'static str {
        if self.gguf { "output_norm" } else { "model.norm" }
    }
}

#[derive(Clone, Copy)]
enum Part {
    AttentionNorm,
    Query,
    Key,
    Value,
    Output,
    InnerNorm,
    Gate,
    Up,
    Down,
}

/// A Llama in memory.
pub(super) struct Llama {
    shape: Shape,
    frequencies: Vec<f32>,
    embedding: Matrix,
    blocks: Vec<Block>,
    last_norm: RmsNorm,
    /// `None` where the embeddings score too.
    head: Option<Matrix>,
}

struct Block {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    inner_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Llama {
    pub(super) fn load(shape: Shape, loader: &Loader<'_>, blocks: Range<usize>) -> Result<Self, PortError> {
        let (hidden, inner) = (shape.hidden, shape.inner);
        let (query, kv) = (shape.heads.query * shape.heads.dim, shape.heads.kv * shape.heads.dim);
        let norm = |name: &str| -> Result<RmsNorm, PortError> {
            Ok(RmsNorm { weight: loader.vector(&format!("{name}.weight"), hidden)?, eps: shape.eps })
        };
        let table = |name: &str| loader.matrix(name, loader.rows(name, MAX_VOCAB)?, hidden);
        let block = |index| -> Result<Block, PortError> {
            let linear = |part, rows, cols| loader.linear(&shape.in_block(index, part), rows, cols);
            Ok(Block {
                attention_norm: norm(&shape.in_block(index, Part::AttentionNorm))?,
                query: linear(Part::Query, query, hidden)?,
                key: linear(Part::Key, kv, hidden)?,
                value: linear(Part::Value, kv, hidden)?,
                output: linear(Part::Output, hidden, query)?,
                inner_norm: norm(&shape.in_block(index, Part::InnerNorm))?,
                gate: linear(Part::Gate, inner, hidden)?,
                up: linear(Part::Up, inner, hidden)?,
                down: linear(Part::Down, hidden, inner)?,
            })
        };
        let divisors = loader.optional_vector("rope_freqs.weight", shape.heads.dim / 2)?;
        Ok(Self {
            frequencies: shape.rope.frequencies(shape.heads.dim, divisors.as_deref()),
            embedding: table(shape.embedding)?,
            blocks: blocks.map(block).collect::<Result<_, _>>()?,
            last_norm: norm(shape.last_norm())?,
            head: (shape.head != shape.embedding).then(|| table(shape.head)).transpose()?,
            shape,
        })
    }
}

impl Family for Llama {
    fn embeddings(&self) -> usize {
        self.embedding.rows()
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, PortError> {
        self.embedding.select(tokens)
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, PortError> {
        self.head.as_ref().unwrap_or(&self.embedding).product(&self.last_norm.forward(hidden))
    }

    fn angles(&self, positions: Range<usize>) -> Vec<(f32, f32)> {
        positions.flat_map(|position| angles(&self.frequencies, position)).collect()
    }

    fn block(
        &self,
        index: usize,
        mut x: Vec<f32>,
        step: &Step<'_>,
        cache: &mut BlockCache,
    ) -> Result<Vec<f32>, PortError> {
        let block = &self.blocks[index];
        let heads = self.shape.heads;
        let normed = block.attention_norm.forward(&x);
        let mut queries = block.query.forward(&normed)?;
        let mut keys = block.key.forward(&normed)?;
        let values = block.value.forward(&normed)?;
        let rows = queries.chunks_exact_mut(heads.query * heads.dim).zip(keys.chunks_exact_mut(heads.kv * heads.dim));
        for (at, ((query, key), value)) in rows.zip(values.chunks_exact(heads.kv * heads.dim)).enumerate() {
            let (row, position) = step.row_and_position(at);
            let pairs = heads.dim / 2;
            let angles = &step.angles[at % step.place.seq * pairs..][..pairs];
            self.shape.rope.turn(query, heads.dim, angles);
            self.shape.rope.turn(key, heads.dim, angles);
            cache.write(row, position, key, value);
        }
        let mixed = attend(&queries, cache, step.place, heads, None);
        add(&mut x, &block.output.forward(&mixed)?);

        let normed = block.inner_norm.forward(&x);
        let mut inner = block.gate.forward(&normed)?;
        let up = block.up.forward(&normed)?;
        inner.iter_mut().zip(&up).for_each(|(gate, up)| *gate = silu(*gate) * up);
        add(&mut x, &block.down.forward(&inner)?);
        Ok(x)
    }
}
