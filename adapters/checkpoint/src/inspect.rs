//! A look at a model's files that reads no weights.

use std::path::Path;

use corolla_domain::{
    fit::{KvType, Part, Parts},
    model::{ModelId, ModelSpec, TokenId},
    ports::PortError,
};

use crate::{
    checkpoint::Checkpoint, families::Description, fault::bad_file, guard::guarded, stored::Stored, weights::Weights,
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
    /// How the matrices of the blocks are stored.
    pub stored: Stored,
    /// Bytes of all weight files.
    pub bytes: u64,
    /// Numbers of KV cache that one position takes in one block: keys and values.
    pub cache_numbers: usize,
    /// How many vectors these are: a key and a value of each head that has its own.
    pub cache_vectors: usize,
    /// How large its parts are.
    pub parts: Parts,
}

impl ModelSummary {
    /// Bytes of KV cache that one position takes in one block.
    #[must_use]
    pub fn position_bytes(&self, kv_type: KvType) -> usize {
        self.cache_vectors * kv_type.vector_bytes(self.cache_numbers / self.cache_vectors.max(1))
    }

    /// What the domain knows of it, under that name and computed with that dtype.
    #[must_use]
    pub fn spec(&self, id: ModelId, dtype: String) -> ModelSpec {
        ModelSpec {
            id,
            family: self.family.clone(),
            hidden: self.hidden,
            vocab: self.vocab,
            blocks: self.blocks,
            max_positions: self.max_positions,
            eos: self.eos.clone(),
            bos: self.bos,
            dtype,
        }
    }
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
        checkpoint.summary(&checkpoint.description()?)
    })
}

impl Checkpoint {
    /// The model of that description in short.
    ///
    /// # Errors
    /// `InvalidInput` where embeddings or head are missing or of another shape than the description's.
    pub fn summary(&self, model: &Description) -> Result<ModelSummary, PortError> {
        let weights = self.weights();
        let (vocab, _) = matrix(weights, &model.ends.head, model.hidden)?;
        matrix(weights, &model.ends.embedding, model.hidden)?;
        let first = model.block(0);
        let sample = first.linears()[0];
        let (_, stored) = matrix(weights, &format!("{}.weight", sample.name), sample.cols)?;
        let special = self.special_tokens(vocab)?;
        Ok(ModelSummary {
            family: model.family.to_owned(),
            hidden: model.hidden,
            vocab,
            blocks: model.blocks,
            max_positions: model.max_positions,
            eos: special.eos,
            bos: special.bos,
            stored,
            bytes: weights.bytes(),
            cache_numbers: 2 * model.heads.kv * model.heads.dim,
            cache_vectors: 2 * model.heads.kv,
            parts: parts(weights, model),
        })
    }
}

/// The numbers of each part. Tensors of shards that are not here count as nothing; whoever needs them will miss them.
fn parts(weights: &dyn Weights, model: &Description) -> Parts {
    let mut parts = Parts { blocks: vec![Part::default(); model.blocks], ..Parts::default() };
    for name in weights.names() {
        let Ok(Some(view)) = weights.view(&name) else { continue };
        let part = match view.shape[..] {
            [rows, cols] => Part::matrix(rows as u64, cols as u64, view.bytes.len() as u64),
            _ => Part::vector(view.shape.iter().map(|side| *side as u64).product()),
        };
        let place = match block(&name) {
            Some(index) => parts.blocks.get_mut(index),
            None if name == model.ends.embedding => Some(&mut parts.embeddings),
            None if name == model.ends.head || view.shape.len() != 2 => Some(&mut parts.head),
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
