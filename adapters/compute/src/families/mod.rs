//! Llama and BLOOM over any arithmetic.

mod bloom;
mod llama;

use std::ops::Range;

use corolla_checkpoint::{BlockPlan, Description, Heads, MAX_VOCAB, NormKind, Positions, Tensors};
use corolla_domain::ports::PortError;

use crate::arithmetic::{Arithmetic, Place, Use};

/// Embeddings and head.
pub(crate) struct Ends<B: Arithmetic> {
    embedding: B::Matrix,
    embedding_norm: Option<Norm<B>>,
    last_norm: Norm<B>,
    /// `None` where the embeddings score too.
    head: Option<B::Matrix>,
    /// Rows of the embeddings.
    pub(crate) embeddings: usize,
    hidden: usize,
}

impl<B: Arithmetic> Ends<B> {
    pub(crate) fn load(b: &B, model: &Description, tensors: Tensors<'_>) -> Result<Self, PortError> {
        let names = &model.ends;
        let tied = names.head == names.embedding;
        let embeddings = tensors.rows(&names.embedding, MAX_VOCAB)?;
        let matrix = |name: &str, of_use| -> Result<B::Matrix, PortError> {
            b.matrix(&tensors.matrix(name, tensors.rows(name, MAX_VOCAB)?, model.hidden)?, of_use)
        };
        Ok(Self {
            embedding: matrix(&names.embedding, if tied { Use::Both } else { Use::Rows })?,
            embedding_norm: names
                .embedding_norm
                .as_ref()
                .map(|name| Norm::load(b, model, tensors, name))
                .transpose()?,
            last_norm: Norm::load(b, model, tensors, &names.last_norm)?,
            head: if tied { None } else { Some(matrix(&names.head, Use::Product)?) },
            embeddings,
            hidden: model.hidden,
        })
    }

    /// Hidden states of tokens: `[tokens, hidden]`.
    pub(crate) fn embed(&self, b: &B, tokens: &[u32]) -> Result<Vec<f32>, PortError> {
        let mut rows = b.select(&self.embedding, tokens)?;
        if let Some(norm) = &self.embedding_norm {
            rows = norm.of(b, &rows)?;
        }
        b.numbers(rows)
    }

    /// Scores over the vocabulary for hidden states that left the last block: `[rows, vocab]`.
    pub(crate) fn logits(&self, b: &B, hidden: Vec<f32>) -> Result<Vec<f32>, PortError> {
        let normed = self.last_norm.of(b, &b.rows(hidden, self.hidden)?)?;
        b.numbers(b.product(&normed, self.head.as_ref().unwrap_or(&self.embedding), None)?)
    }
}

/// A run of blocks.
pub(crate) struct Blocks<B: Arithmetic> {
    blocks: Vec<Box<dyn Block<B>>>,
    heads: Heads,
    /// Radians a position for each rotary pair.
    frequencies: Option<Vec<f32>>,
    /// Slopes of ALiBi.
    slopes: Option<B::Vector>,
}

/// One block. It has checked its tensors; calls have checked their arguments.
trait Block<B: Arithmetic>: Send + Sync {
    /// Hidden states after the block, for those before it.
    fn forward(&self, b: &B, x: B::Rows, cache: &mut B::Cache, step: &Step<'_, B>) -> Result<B::Rows, PortError>;
}

/// One step, as a block sees it.
pub(crate) struct Step<'a, B: Arithmetic> {
    frame: &'a B::Frame,
    heads: Heads,
}

impl<B: Arithmetic> Blocks<B> {
    pub(crate) fn load(
        b: &B,
        model: &Description,
        tensors: Tensors<'_>,
        blocks: Range<usize>,
    ) -> Result<Self, PortError> {
        let load = |index| -> Result<Box<dyn Block<B>>, PortError> {
            Ok(match model.block(index) {
                BlockPlan::Bloom(plan) => Box::new(bloom::Bloom::load(b, model, tensors, &plan)?),
                BlockPlan::Llama(plan) => Box::new(llama::Llama::load(b, model, tensors, &plan)?),
            })
        };
        let (frequencies, slopes) = match &model.positions {
            Positions::Rope(frequencies) => (Some(frequencies.clone()), None),
            Positions::Alibi(slopes) => (None, Some(b.vector(slopes.clone())?)),
        };
        Ok(Self { blocks: blocks.map(load).collect::<Result<_, _>>()?, heads: model.heads, frequencies, slopes })
    }

    /// An empty cache of one block.
    pub(crate) fn cache(&self, b: &B, batch: usize, length: usize) -> Result<B::Cache, PortError> {
        b.cache(batch, length, self.heads)
    }

    /// Runs `x` through the blocks from number `first` on, one for each of `caches`. `check` is asked before each.
    pub(crate) fn run(
        &self,
        b: &B,
        (first, caches): (usize, &mut [B::Cache]),
        x: B::Rows,
        place: Place,
        check: impl Fn() -> Result<(), PortError>,
    ) -> Result<B::Rows, PortError> {
        let positions = place.position..place.position + place.seq;
        let turns = self.frequencies.as_ref().map(|frequencies| turns(frequencies, positions));
        let frame = b.frame(place, turns, self.slopes.as_ref())?;
        let step = Step { frame: &frame, heads: self.heads };
        self.blocks[first..].iter().zip(caches).try_fold(x, |x, (block, cache)| {
            check()?;
            block.forward(b, x, cache, &step)
        })
    }
}

/// Cosine and sine of each frequency at each position.
fn turns(frequencies: &[f32], positions: Range<usize>) -> Vec<(f32, f32)> {
    let at = |position: usize| {
        frequencies.iter().map(move |frequency| {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            (cos as f32, sin as f32)
        })
    };
    positions.flat_map(at).collect()
}

/// A norm of either kind.
struct Norm<B: Arithmetic> {
    scale: B::Vector,
    /// `None` is a root-mean-square norm.
    shift: Option<B::Vector>,
    eps: f32,
}

impl<B: Arithmetic> Norm<B> {
    fn load(b: &B, model: &Description, tensors: Tensors<'_>, name: &str) -> Result<Self, PortError> {
        let vector = |part: &str| b.vector(tensors.vector(&format!("{name}.{part}"), model.hidden)?);
        let shift = match model.norm {
            NormKind::Layer => Some(vector("bias")?),
            NormKind::Rms => None,
        };
        Ok(Self { scale: vector("weight")?, shift, eps: model.eps })
    }

    fn of(&self, b: &B, x: &B::Rows) -> Result<B::Rows, PortError> {
        match &self.shift {
            Some(shift) => b.layer_norm(x, &self.scale, shift, self.eps),
            None => b.rms_norm(x, &self.scale, self.eps),
        }
    }
}

/// A matrix and what is added to its products.
struct Linear<B: Arithmetic> {
    weight: B::Matrix,
    bias: Option<B::Vector>,
}

impl<B: Arithmetic> Linear<B> {
    fn load(b: &B, tensors: Tensors<'_>, plan: &corolla_checkpoint::Linear) -> Result<Self, PortError> {
        let (weight, bias) = tensors.linear(plan)?;
        Ok(Self { weight: b.matrix(&weight, Use::Product)?, bias: bias.map(|bias| b.vector(bias)).transpose()? })
    }

    fn of(&self, b: &B, x: &B::Rows) -> Result<B::Rows, PortError> {
        b.product(x, &self.weight, self.bias.as_ref())
    }
}
