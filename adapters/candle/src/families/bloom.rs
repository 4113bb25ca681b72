//! BLOOM (Le Scao et al., 2022): ALiBi, layer norms with shifts, one fused product for queries, keys and values.

use std::ops::Range;

use corolla_domain::ports::PortError;

use super::{Family, MAX_BLOCKS, MAX_HIDDEN, MAX_INNER, MAX_VOCAB, Outline, Step};
use crate::{
    attention::{Heads, attend},
    kv_cache::BlockCache,
    matrix::{Linear, Loader, Matrix},
    norm::{LayerNorm, add, gelu},
    settings::Settings,
    weights::Weights,
};

/// What distinguishes one BLOOM from another.
pub(super) struct Shape {
    hidden: usize,
    inner: usize,
    heads: usize,
    blocks: usize,
    eps: f32,
    /// Whether what is carried around a layer is taken after the norm instead of before it.
    residual_after_norm: bool,
    names: Names,
}

impl Shape {
    pub(super) fn read(settings: &Settings<'_>, weights: &dyn Weights) -> Result<Self, PortError> {
        let hidden = settings.required(&["hidden_size", "n_embed", "bloom.embedding_length"], MAX_HIDDEN)?;
        let heads = settings.required(&["n_head", "num_attention_heads", "bloom.attention.head_count"], MAX_HIDDEN)?;
        let blocks = settings.required(&["n_layer", "num_hidden_layers", "bloom.block_count"], MAX_BLOCKS)?;
        if !hidden.is_multiple_of(heads) {
            return Err(settings.fault(format!("{heads} heads cannot share a width of {hidden}")));
        }
        let inner = settings.size(&["n_inner", "bloom.feed_forward_length"], MAX_INNER)?.unwrap_or(4 * hidden);
        let eps = settings.number(&["layer_norm_epsilon", "bloom.attention.layer_norm_epsilon"])?.unwrap_or(1e-5);
        let residual_after_norm = settings.flag("apply_residual_connection_post_layernorm")?.unwrap_or(false);
        let names = Names::find(settings, weights)?;
        Ok(Self { hidden, inner, heads, blocks, eps: eps as f32, residual_after_norm, names })
    }

    pub(super) fn outline(&self) -> Outline {
        Outline {
            family: "bloom",
            hidden: self.hidden,
            blocks: self.blocks,
            max_positions: None,
            kv_heads: self.heads,
            head_dim: self.hidden / self.heads,
            embedding: self.names.embedding.clone(),
            head: self.names.head.clone(),
            sample: format!("{}.weight", self.names.in_block(0).qkv),
        }
    }
}

/// What tensors are called. GGUF holds queries, keys and values one after the other, Hugging Face head by head.
struct Names {
    gguf: bool,
    prefix: &'static str,
    embedding: String,
    head: String,
}

struct BlockNames {
    attention_norm: String,
    qkv: String,
    output: String,
    inner_norm: String,
    up: String,
    down: String,
}

impl Names {
    fn find(settings: &Settings<'_>, weights: &dyn Weights) -> Result<Self, PortError> {
        if settings.are_gguf() {
            let embedding = "token_embd.weight".to_owned();
            let untied = weights.view("output.weight")?.is_some();
            let head = if untied { "output.weight".to_owned() } else { embedding.clone() };
            return Ok(Self { gguf: true, prefix: "", embedding, head });
        }
        let bare = weights.view("word_embeddings.weight")?.is_some();
        let prefix = if bare { "" } else { "transformer." };
        let embedding = format!("{prefix}word_embeddings.weight");
        let untied = settings.flag("tie_word_embeddings")? == Some(false) && weights.view("lm_head.weight")?.is_some();
        let head = if untied { "lm_head.weight".to_owned() } else { embedding.clone() };
        Ok(Self { gguf: false, prefix, embedding, head })
    }

    fn embedding_norm(&self) -> String {
        if self.gguf { "token_embd_norm".to_owned() } else { format!("{}word_embeddings_layernorm", self.prefix) }
    }

    fn last_norm(&self) -> String {
        if self.gguf { "output_norm".to_owned() } else { format!("{}ln_f", self.prefix) }
    }

    fn in_block(&self, index: usize) -> BlockNames {
        let [attention_norm, qkv, output, inner_norm, up, down] = if self.gguf {
            ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"]
                .map(|name| format!("blk.{index}.{name}"))
        } else {
            [
                "input_layernorm",
                "self_attention.query_key_value",
                "self_attention.dense",
                "post_attention_layernorm",
                "mlp.dense_h_to_4h",
                "mlp.dense_4h_to_h",
            ]
            .map(|name| format!("{}h.{index}.{name}", self.prefix))
        };
        BlockNames { attention_norm, qkv, output, inner_norm, up, down }
    }
}

/// A BLOOM in memory.
pub(super) struct Bloom {
    shape: Shape,
    slopes: Vec<f32>,
    embedding: Matrix,
    embedding_norm: LayerNorm,
    blocks: Vec<Block>,
    last_norm: LayerNorm,
    /// `None` where the embeddings score too.
    head: Option<Matrix>,
}

struct Block {
    attention_norm: LayerNorm,
    qkv: Linear,
    output: Linear,
    inner_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Bloom {
    pub(super) fn load(shape: Shape, loader: &Loader<'_>, blocks: Range<usize>) -> Result<Self, PortError> {
        let hidden = shape.hidden;
        let norm = |name: &str| -> Result<LayerNorm, PortError> {
            let weight = loader.vector(&format!("{name}.weight"), hidden)?;
            Ok(LayerNorm { weight, bias: loader.vector(&format!("{name}.bias"), hidden)?, eps: shape.eps })
        };
        let table = |name: &str| loader.matrix(name, loader.rows(name, MAX_VOCAB)?, hidden);
        let block = |index| -> Result<Block, PortError> {
            let names = shape.names.in_block(index);
            Ok(Block {
                attention_norm: norm(&names.attention_norm)?,
                qkv: loader.linear(&names.qkv, 3 * hidden, hidden)?,
                output: loader.linear(&names.output, hidden, hidden)?,
                inner_norm: norm(&names.inner_norm)?,
                up: loader.linear(&names.up, shape.inner, hidden)?,
                down: loader.linear(&names.down, hidden, shape.inner)?,
            })
        };
        let names = &shape.names;
        Ok(Self {
            slopes: slopes(shape.heads),
            embedding: table(&names.embedding)?,
            embedding_norm: norm(&names.embedding_norm())?,
            blocks: blocks.map(block).collect::<Result<_, _>>()?,
            last_norm: norm(&names.last_norm())?,
            head: (names.head != names.embedding).then(|| table(&names.head)).transpose()?,
            shape,
        })
    }

    /// Splits products of the fused matrix into queries `[positions, hidden]`, and writes keys and values.
    fn split(&self, qkv: &[f32], step: &Step<'_>, cache: &mut BlockCache) -> Vec<f32> {
        let hidden = self.shape.hidden;
        if self.shape.names.gguf {
            let mut queries = Vec::with_capacity(qkv.len() / 3);
            for (at, row) in qkv.chunks_exact(3 * hidden).enumerate() {
                queries.extend_from_slice(&row[..hidden]);
                let (row_in_batch, position) = step.row_and_position(at);
                cache.write(row_in_batch, position, &row[hidden..2 * hidden], &row[2 * hidden..]);
            }
            return queries;
        }
        let dim = hidden / self.shape.heads;
        let part = |row: &[f32], part: usize| -> Vec<f32> {
            row.chunks_exact(3 * dim).flat_map(|head| &head[part * dim..(part + 1) * dim]).copied().collect()
        };
        let mut queries = Vec::with_capacity(qkv.len() / 3);
        for (at, row) in qkv.chunks_exact(3 * hidden).enumerate() {
            queries.extend(part(row, 0));
            let (row_in_batch, position) = step.row_and_position(at);
            cache.write(row_in_batch, position, &part(row, 1), &part(row, 2));
        }
        queries
    }
}

impl Family for Bloom {
    fn embeddings(&self) -> usize {
        self.embedding.rows()
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, PortError> {
        Ok(self.embedding_norm.forward(&self.embedding.select(tokens)?))
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, PortError> {
        self.head.as_ref().unwrap_or(&self.embedding).product(&self.last_norm.forward(hidden))
    }

    fn block(&self, index: usize, x: Vec<f32>, step: &Step<'_>, cache: &mut BlockCache) -> Result<Vec<f32>, PortError> {
        let block = &self.blocks[index];
        let heads = Heads { query: self.shape.heads, kv: self.shape.heads, dim: self.shape.hidden / self.shape.heads };
        let normed = block.attention_norm.forward(&x);
        let queries = self.split(&block.qkv.forward(&normed)?, step, cache);
        let mixed = attend(&queries, cache, step.place, heads, Some(&self.slopes));
        let mut carried = if self.shape.residual_after_norm { normed } else { x };
        add(&mut carried, &block.output.forward(&mixed)?);

        let normed = block.inner_norm.forward(&carried);
        let mut inner = block.up.forward(&normed)?;
        inner.iter_mut().for_each(|v| *v = gelu(*v));
        let mut x = if self.shape.residual_after_norm { normed } else { carried };
        add(&mut x, &block.down.forward(&inner)?);
        Ok(x)
    }
}

/// How fast each head forgets (Press et al., 2022). Where the count is no power of two, the heads beyond the largest
/// power take every other slope of twice as many heads.
fn slopes(heads: usize) -> Vec<f32> {
    let power = 1 << heads.ilog2();
    let of = |heads: usize, nth: usize| (-8.0 * nth as f64 / heads as f64).exp2() as f32;
    let regular = (1..=power).map(|nth| of(power, nth));
    let extra = (0..heads - power).map(|nth| of(2 * power, 2 * nth + 1));
    regular.chain(extra).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_a_power_of_two_are_a_geometric_series() {
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25]);
        assert_eq!(slopes(1), [0.003_906_25]);
    }

    #[test]
    fn further_heads_lie_between_the_regular_ones() {
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8));
        assert_eq!(twelve[8..], [slopes(16)[0], slopes(16)[2], slopes(16)[4], slopes(16)[6]]);
    }
}
