//! Model architectures. Each is split where a swarm splits it: embeddings, blocks, head.

mod bloom;
mod llama;
mod rope;

use std::ops::Range;

use candle_core::Device;
use corolla_domain::ports::PortError;

use crate::{
    attention::Place, config::DtypeChoice, fault::unsupported, kv_cache::BlockCache, matrix::Loader,
    settings::Settings, weights::Weights,
};

/// Families this crate computes, by the names that configurations use.
const KNOWN: [&str; 2] = ["bloom", "llama"];

/// No model known has more blocks.
const MAX_BLOCKS: usize = 10_000;
/// No model known has more numbers in a hidden state.
const MAX_HIDDEN: usize = 1 << 20;
/// No model known has wider feed-forward layers.
const MAX_INNER: usize = 1 << 23;
/// No model known has more tokens.
const MAX_VOCAB: usize = 1 << 24;
/// No model known reads longer texts.
const MAX_POSITIONS: usize = 1 << 31;

/// What describes the shape of a model of any family.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outline {
    /// Its family.
    pub family: &'static str,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Positions it was trained for.
    pub max_positions: Option<usize>,
    /// Heads with keys and values.
    pub kv_heads: usize,
    /// Numbers of each of them.
    pub head_dim: usize,
    /// The matrix that holds the embeddings.
    pub embedding: String,
    /// The matrix that scores the vocabulary.
    pub head: String,
    /// A matrix of the first block, for a look at how weights are stored.
    pub sample: String,
}

/// A model, or some blocks of one. Calls have checked their arguments.
pub(crate) trait Family: Send + Sync {
    /// Rows of the embeddings.
    fn embeddings(&self) -> usize;

    /// Hidden states of tokens: `[tokens, hidden]`.
    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, PortError>;

    /// Scores over the vocabulary for hidden states that left the last block: `[rows, vocab]`.
    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, PortError>;

    /// What all blocks of a step need to know of its positions; empty where they need nothing.
    fn angles(&self, _positions: Range<usize>) -> Vec<(f32, f32)> {
        Vec::new()
    }

    /// Runs `x` of shape `[batch, seq, hidden]` through the block that was loaded as number `index`.
    fn block(&self, index: usize, x: Vec<f32>, step: &Step<'_>, cache: &mut BlockCache) -> Result<Vec<f32>, PortError>;
}

/// One step, as a block sees it.
pub(crate) struct Step<'a> {
    /// Which positions.
    pub place: Place,
    /// What [`Family::angles`] gave for them.
    pub angles: &'a [(f32, f32)],
}

impl Step<'_> {
    /// Row and position of entry `at` of `[batch, seq]`.
    fn row_and_position(&self, at: usize) -> (usize, usize) {
        (at / self.place.seq, self.place.position + at % self.place.seq)
    }
}

/// How to load a model.
pub(crate) struct Choice {
    /// Which blocks; may be none.
    pub blocks: Range<usize>,
    /// How weights are kept.
    pub dtype: DtypeChoice,
    /// Where they are kept.
    pub device: Device,
}

/// The shape of the model that `settings` describe.
pub(crate) fn outline(settings: &Settings<'_>, weights: &dyn Weights) -> Result<Outline, PortError> {
    match family(settings)? {
        "bloom" => Ok(bloom::Shape::read(settings, weights)?.outline()),
        _ => Ok(llama::Shape::read(settings, weights)?.outline()),
    }
}

/// Loads what was chosen.
pub(crate) fn load(
    settings: &Settings<'_>,
    weights: &dyn Weights,
    choice: Choice,
) -> Result<Box<dyn Family>, PortError> {
    let loader = Loader { weights, dtype: choice.dtype, device: choice.device };
    match family(settings)? {
        "bloom" => Ok(Box::new(bloom::Bloom::load(bloom::Shape::read(settings, weights)?, &loader, choice.blocks)?)),
        _ => Ok(Box::new(llama::Llama::load(llama::Shape::read(settings, weights)?, &loader, choice.blocks)?)),
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
