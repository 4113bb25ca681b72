//! A look at a model's files that reads no weights.

use std::path::Path;

use corolla_domain::{model::TokenId, ports::PortError};

use crate::{
    checkpoint::Checkpoint,
    families::{Description, Linear},
    fault::bad_file,
    guard::guarded,
    stored::Stored,
    weights::Weights,
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
    /// How large its parts are.
    pub parts: Parts,
}

/// The matrices of a model, by where they run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The embeddings.
    pub embedding: Amount,
    /// The LM head; `None` where the embeddings score too.
    pub head: Option<Amount>,
    /// Each block.
    pub blocks: Vec<Amount>,
    /// The largest power of two, up to 256, that divides the rows of all matrices: quantised blocks must fit in.
    pub divisor: usize,
}

/// How large matrices are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Their numbers.
    pub numbers: u64,
    /// Their bytes as the file stores them.
    pub stored_bytes: u64,
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
        let (rows, stored) = matrix(weights, &model.ends.embedding, model.hidden)?;
        let embedding = amount(rows, model.hidden, stored);
        let (vocab, stored) = matrix(weights, &model.ends.head, model.hidden)?;
        let head = (model.ends.head != model.ends.embedding).then(|| amount(vocab, model.hidden, stored));
        let first = model.block(0);
        let sample = first.linears()[0];
        let (_, stored) = matrix(weights, &format!("{}.weight", sample.name), sample.cols)?;
        let special = self.special_tokens(vocab)?;
        let sides = first.linears().into_iter().fold(model.hidden, |sides, linear| sides | linear.cols);
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
            parts: Parts {
                embedding,
                head,
                blocks: (0..model.blocks).map(|block| in_block(weights, model, block, stored)).collect(),
                divisor: 1 << sides.trailing_zeros().min(8),
            },
        })
    }
}

/// The matrices of a block. Those whose file is not here (a machine need not have all shards) count as stored like the
/// model's first.
fn in_block(weights: &dyn Weights, model: &Description, block: usize, like: Stored) -> Amount {
    let of = |linear: &Linear| {
        let found = weights.view(&format!("{}.weight", linear.name)).ok().flatten();
        amount(linear.rows, linear.cols, found.map_or(like, |view| view.stored))
    };
    let add = |sum: Amount, more: Amount| Amount {
        numbers: sum.numbers + more.numbers,
        stored_bytes: sum.stored_bytes + more.stored_bytes,
    };
    model.block(block).linears().into_iter().map(of).fold(Amount::default(), add)
}

fn amount(rows: usize, cols: usize, stored: Stored) -> Amount {
    let (block, bytes) = stored.block();
    let numbers = rows as u64 * cols as u64;
    Amount { numbers, stored_bytes: numbers / block as u64 * bytes as u64 }
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
