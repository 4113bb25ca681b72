//! Descriptions of model architectures, each split where a swarm splits it: embeddings, blocks, head.

mod bloom;
mod llama;
mod rope;

use corolla_domain::ports::PortError;

use crate::{fault::unsupported, settings::Settings, tensors::Tensors, weights::Weights};

pub use bloom::BloomBlock;
pub use llama::LlamaBlock;

/// Families that are known, by the names that configurations use.
const KNOWN: [&str; 2] = ["bloom", "llama"];

/// No model known has more blocks.
const MAX_BLOCKS: usize = 10_000;
/// No model known has more numbers in a hidden state.
const MAX_HIDDEN: usize = 1 << 20;
/// No model known has wider feed-forward layers.
const MAX_INNER: usize = 1 << 23;
/// No model known has more tokens.
pub const MAX_VOCAB: usize = 1 << 24;
/// No model known reads longer texts.
const MAX_POSITIONS: usize = 1 << 31;

/// How the width is divided among heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads that ask.
    pub query: usize,
    /// Heads with keys and values; each serves `query / kv` asking ones that stand side by side.
    pub kv: usize,
    /// Numbers of one head.
    pub dim: usize,
}

/// How activations are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Mean 0, variance 1, a scale and a shift.
    Layer,
    /// Root mean square 1, a scale (Zhang and Sennrich, 2019).
    Rms,
}

/// How a model knows where a token stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Attention fades with distance, by a slope for each head that asks (ALiBi; Press et al., 2022).
    Alibi(Vec<f32>),
    /// Pairs of numbers of queries and keys turn with the position: number `i` of the first half of a head with number
    /// `i` of the second, by `frequencies[i]` radians a position (Su et al., 2021).
    Rope(Vec<f32>),
}

/// Names of the tensors outside the blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndNames {
    /// The matrix of the embeddings.
    pub embedding: String,
    /// The norm between embeddings and blocks, where there is one.
    pub embedding_norm: Option<String>,
    /// The norm after the blocks.
    pub last_norm: String,
    /// The matrix that scores the vocabulary; that of the embeddings where it is shared.
    pub head: String,
}

/// Which row of a stored matrix is which row of the matrix wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// The same.
    AsStored,
    /// Stored with the two numbers of each rotary pair side by side; wanted as [`Positions::Rope`] says.
    Neighbours {
        /// Rows of a head.
        dim: usize,
    },
    /// Stored as queries, keys and values of one head after those of another; wanted as all queries, all keys, all
    /// values.
    HeadByHead {
        /// Rows of a head's queries.
        dim: usize,
    },
}

impl RowOrder {
    /// The stored row that is row `to` of `rows`.
    pub(crate) fn source(self, to: usize, rows: usize) -> usize {
        match self {
            Self::AsStored => to,
            Self::Neighbours { dim } => {
                let (head, within) = (to / dim, to % dim);
                head * dim + within % (dim / 2) * 2 + within / (dim / 2)
            }
            Self::HeadByHead { dim } => {
                let (part, within) = (to / (rows / 3), to % (rows / 3));
                (within / dim * 3 + part) * dim + within % dim
            }
        }
    }
}

/// A linear layer: the tensors `{name}.weight` of shape `[rows, cols]` and, where it is there, `{name}.bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Its name.
    pub name: String,
    /// Numbers that come out.
    pub rows: usize,
    /// Numbers that go in.
    pub cols: usize,
    /// How its rows are ordered.
    pub order: RowOrder,
}

impl Linear {
    fn new(name: String, rows: usize, cols: usize) -> Self {
        Self { name, rows, cols, order: RowOrder::AsStored }
    }
}

/// The layers of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockPlan {
    /// One of BLOOM.
    Bloom(BloomBlock),
    /// One of Llama.
    Llama(LlamaBlock),
}

impl BlockPlan {
    /// Its linear layers.
    #[must_use]
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Bloom(block) => vec![&block.qkv, &block.output, &block.up, &block.down],
            Self::Llama(block) => {
                let LlamaBlock { query, key, value, output, gate, up, down, .. } = block;
                vec![query, key, value, output, gate, up, down]
            }
        }
    }
}

/// What a model is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its family.
    pub family: &'static str,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Positions it was trained for; `None` where the position scheme sets no limit.
    pub max_positions: Option<usize>,
    /// Its attention heads.
    pub heads: Heads,
    /// How it normalises.
    pub norm: NormKind,
    /// What is added to a variance before its root is taken.
    pub eps: f32,
    /// How it knows positions.
    pub positions: Positions,
    /// What is outside the blocks.
    pub ends: EndNames,
    layers: Layers,
}

#[derive(Debug, Clone, PartialEq)]
enum Layers {
    Bloom(bloom::Layers),
    Llama(llama::Layers),
}

impl Description {
    /// The model that `settings` describe.
    pub(crate) fn read(settings: &Settings<'_>, weights: &dyn Weights) -> Result<Self, PortError> {
        match family(settings)? {
            "bloom" => bloom::describe(settings, weights),
            _ => llama::describe(settings, Tensors::of(weights), weights),
        }
    }

    /// The layers of block `index`.
    #[must_use]
    pub fn block(&self, index: usize) -> BlockPlan {
        match &self.layers {
            Layers::Bloom(layers) => BlockPlan::Bloom(layers.block(index, self)),
            Layers::Llama(layers) => BlockPlan::Llama(layers.block(index, self)),
        }
    }
}

fn family(settings: &Settings<'_>) -> Result<&'static str, PortError> {
    let key = if settings.are_gguf() { "general.architecture" } else { "model_type" };
    let Some(name) = settings.text(&[key]) else {
        return Err(settings.fault(format!("{key} is missing, so the family of the model is unknown")));
    };
    KNOWN.into_iter().find(|known| *known == name).ok_or_else(|| {
        let known = KNOWN.join(" and ");
        unsupported(settings.fault(format!("is a {name:?} model; the families supported are {known}")).context())
    })
}

#[cfg(test)]
mod tests {
    use super::RowOrder;

    #[test]
    fn neighbours_come_apart_into_halves() {
        let order = RowOrder::Neighbours { dim: 4 };
        let sources: Vec<usize> = (0..8).map(|row| order.source(row, 8)).collect();
        assert_eq!(sources, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn heads_come_apart_into_queries_keys_and_values() {
        // Two heads of two rows: q0 q0 k0 k0 v0 v0 q1 q1 k1 k1 v1 v1.
        let order = RowOrder::HeadByHead { dim: 2 };
        let sources: Vec<usize> = (0..12).map(|row| order.source(row, 12)).collect();
        assert_eq!(sources, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }
}
