//! BLOOM (Le Scao et al., 2022): ALiBi, layer norms with shifts, one fused product for queries, keys and values.

use corolla_domain::ports::PortError;

use super::{Description, EndNames, Heads, Linear, MAX_BLOCKS, MAX_HIDDEN, MAX_INNER, NormKind, Positions, RowOrder};
use crate::{settings::Settings, weights::Weights};

/// The layers of a BLOOM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BloomBlock {
    /// The norm before attention.
    pub attention_norm: String,
    /// All queries, all keys, all values.
    pub qkv: Linear,
    /// From mixed values back to the hidden state.
    pub output: Linear,
    /// The norm before the feed-forward layers.
    pub inner_norm: String,
    /// Into the feed-forward layer; GELU follows.
    pub up: Linear,
    /// Out of it.
    pub down: Linear,
    /// Whether what is carried around a layer is taken after the norm instead of before it.
    pub residual_after_norm: bool,
}

/// What distinguishes one BLOOM's blocks from another's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layers {
    inner: usize,
    residual_after_norm: bool,
    names: Names,
}

pub(super) fn describe(settings: &Settings<'_>, weights: &dyn Weights) -> Result<Description, PortError> {
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
    Ok(Description {
        family: "bloom",
        hidden,
        blocks,
        max_positions: None,
        heads: Heads { query: heads, kv: heads, dim: hidden / heads },
        norm: NormKind::Layer,
        eps: eps as f32,
        positions: Positions::Alibi(slopes(heads)),
        ends: EndNames {
            embedding: names.embedding.clone(),
            embedding_norm: Some(names.embedding_norm()),
            last_norm: names.last_norm(),
            head: names.head.clone(),
        },
        layers: super::Layers::Bloom(Layers { inner, residual_after_norm, names }),
    })
}

impl Layers {
    pub(super) fn block(&self, index: usize, model: &Description) -> BloomBlock {
        let [attention_norm, qkv, output, inner_norm, up, down] = self.names.in_block(index);
        let hidden = model.hidden;
        let order = if self.names.gguf { RowOrder::AsStored } else { RowOrder::HeadByHead { dim: model.heads.dim } };
        BloomBlock {
            attention_norm,
            qkv: Linear { order, ..Linear::new(qkv, 3 * hidden, hidden) },
            output: Linear::new(output, hidden, hidden),
            inner_norm,
            up: Linear::new(up, self.inner, hidden),
            down: Linear::new(down, hidden, self.inner),
            residual_after_norm: self.residual_after_norm,
        }
    }
}

/// What tensors are called. GGUF holds queries, keys and values one after the other, Hugging Face head by head.
#[derive(Debug, Clone, PartialEq)]
struct Names {
    gguf: bool,
    prefix: &'static str,
    embedding: String,
    head: String,
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

    /// Norm and layers in the order in which they run.
    fn in_block(&self, index: usize) -> [String; 6] {
        if self.gguf {
            return ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"]
                .map(|name| format!("blk.{index}.{name}"));
        }
        [
            "input_layernorm",
            "self_attention.query_key_value",
            "self_attention.dense",
            "post_attention_layernorm",
            "mlp.dense_h_to_4h",
            "mlp.dense_4h_to_h",
        ]
        .map(|name| format!("{}h.{index}.{name}", self.prefix))
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
