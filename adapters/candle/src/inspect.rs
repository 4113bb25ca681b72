//! A look at a model's files that reads no weights.

use std::path::Path;

use corolla_domain::{
    fit::{Part, Parts},
    model::TokenId,
    ports::PortError,
};

use crate::{
    checkpoint::Checkpoint,
    families::{Outline, outline},
    fault::bad_file,
    weights::{Stored, Weights},
    worker::guarded,
};

/// What a model is, from its headers and configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    /// Architecture, e.g. `llama` or `bloom`.
    pub family: String,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Rows of the LM head.
    pub vocab: usize,
    /// Number of transformer blocks.
    pub blocks: usize,
    /// Positions the model was trained for; `None` where the position scheme sets no limit.
    pub max_positions: Option<usize>,
    /// Tokens that end a reply, the canonical one first.
    pub eos: Vec<TokenId>,
    /// Token that starts a text.
    pub bos: Option<TokenId>,
    /// How the matrices of the blocks are stored, e.g. `f32`, `bf16`, `q4_1`.
    pub dtype: String,
    /// Bytes of all weight files.
    pub bytes: u64,
    /// Bytes of KV cache that one position takes over all blocks.
    pub cache_bytes: usize,
    /// How many numbers there are, and where.
    pub parts: Parts,
}

/// Reads headers and configuration of the model at `path`: a GGUF file, or a folder with a checkpoint. Blocks on the
/// file system for some milliseconds.
///
/// # Errors
/// `NotFound` where there is no such model, `InvalidInput` where a file is damaged, `Unsupported` for a family or a
/// way of storing numbers that this crate does not know.
pub fn inspect(path: &Path) -> Result<ModelSummary, PortError> {
    guarded("reading the model's headers", || {
        let checkpoint = Checkpoint::open(path)?;
        let outline = outline(&checkpoint.settings()?, checkpoint.weights())?;
        summary(&checkpoint, &outline)
    })
}

/// What `checkpoint`, of that outline, is.
pub(crate) fn summary(checkpoint: &Checkpoint, outline: &Outline) -> Result<ModelSummary, PortError> {
    let weights = checkpoint.weights();
    let (vocab, _) = matrix(weights, &outline.head, outline.hidden)?;
    matrix(weights, &outline.embedding, outline.hidden)?;
    let (_, stored) = matrix(weights, &outline.sample, outline.hidden)?;
    let special = checkpoint.special_tokens(vocab)?;
    Ok(ModelSummary {
        family: outline.family.to_owned(),
        hidden: outline.hidden,
        vocab,
        blocks: outline.blocks,
        max_positions: outline.max_positions,
        eos: special.eos,
        bos: special.bos,
        dtype: stored.name(),
        bytes: weights.bytes(),
        cache_bytes: 2 * size_of::<f32>() * outline.blocks * outline.kv_heads * outline.head_dim,
        parts: parts(weights, outline),
    })
}

/// The numbers of each part. Tensors of shards that are not here count as nothing; whoever needs them will miss them.
fn parts(weights: &dyn Weights, outline: &Outline) -> Parts {
    let mut parts = Parts { blocks: vec![Part::default(); outline.blocks], ..Parts::default() };
    for name in weights.names() {
        let Ok(Some(view)) = weights.view(&name) else { continue };
        let part = match view.shape[..] {
            [rows, cols] => Part::matrix(rows as u64, cols as u64, view.bytes.len() as u64),
            _ => Part::vector(view.shape.iter().map(|side| *side as u64).product()),
        };
        let place = match block(&name) {
            Some(index) => parts.blocks.get_mut(index),
            None if name == outline.embedding => Some(&mut parts.embeddings),
            None if name == outline.head || view.shape.len() != 2 => Some(&mut parts.head),
            None => None,
        };
        if let Some(place) = place {
            *place = *place + part;
        }
    }
    parts
}

/// The number in `model.layers.7.mlp.up_proj.weight`, `h.7.mlp.dense.bias` and `blk.7.ffn_up.weight`.
fn block(name: &str) -> Option<usize> {
    let mut words = name.split('.');
    words.find(|word| ["layers", "h", "blk"].contains(word))?;
    words.next()?.parse().ok()
}

/// Rows and storage of a matrix with that many columns.
fn matrix(weights: &dyn Weights, name: &str, cols: usize) -> Result<(usize, Stored), PortError> {
    let Some(view) = weights.view(name)? else {
        let fault = format!("has no tensor {name}; the file is incomplete or of another model");
        return Err(bad_file(weights.place(), fault));
    };
    match view.shape[..] {
        [rows, found] if found == cols && rows > 0 => Ok((rows, view.stored)),
        _ => {
            let fault = format!("tensor {name} has shape {:?}, the configuration asks for [_, {cols}]", view.shape);
            Err(bad_file(view.file, fault))
        }
    }
}
