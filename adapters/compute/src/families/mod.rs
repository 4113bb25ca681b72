//! Llama and BLOOM over any arithmetic.

mod attention_gradient;
mod backward;
mod bloom;
mod gradient;
mod llama;

use std::ops::Range;

use corolla_checkpoint::{BlockPlan, Description, Heads, MAX_VOCAB, NormKind, Positions, Tensors};
use corolla_domain::{
    model::{LogitRow, Want},
    ports::PortError,
};

use self::backward::Pass;
use crate::{
    arithmetic::{Arithmetic, Place, Use},
    pick::pick,
};

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
        let view = |name: &str| tensors.matrix(name, tensors.rows(name, MAX_VOCAB)?, model.hidden);
        let embedding = view(&names.embedding)?;
        Ok(Self {
            embedding: if tied { b.head(&embedding, Use::Both) } else { b.matrix(&embedding, Use::Rows) }?,
            embedding_norm: names
                .embedding_norm
                .as_ref()
                .map(|name| Norm::load(b, model, tensors, name))
                .transpose()?,
            last_norm: Norm::load(b, model, tensors, &names.last_norm)?,
            head: if tied { None } else { Some(b.head(&view(&names.head)?, Use::Product)?) },
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

    /// Hidden states that left the last block, as the head reads them.
    pub(crate) fn normed(&self, b: &B, hidden: Vec<f32>) -> Result<Vec<f32>, PortError> {
        b.numbers(self.last_norm.of(b, &b.rows(hidden, self.hidden)?)?)
    }

    /// What each of `wants` names of the scores over the vocabulary, for one hidden state each that left the last block.
    pub(crate) fn scores(&self, b: &B, hidden: Vec<f32>, wants: &[&Want]) -> Result<Vec<LogitRow>, PortError> {
        let normed = self.last_norm.of(b, &b.rows(hidden, self.hidden)?)?;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        if let Some(scores) = b.screened_scores(&normed, head, wants)? {
            return Ok(scores);
        }
        let scores = b.numbers(b.product(&normed, head, None)?)?;
        let rows = scores.chunks_exact(scores.len() / wants.len());
        Ok(rows.zip(wants).map(|(row, want)| pick(row, want)).collect())
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
    host_slopes: Option<Vec<f32>>,
}

/// One block. It has checked its tensors; calls have checked their arguments.
trait Block<B: Arithmetic>: Send + Sync {
    /// Hidden states after the block, for those before it.
    fn forward(&self, b: &B, x: B::Rows, sequences: &mut Sequences<'_, B>) -> Result<B::Rows, PortError>;

    /// Derivatives by the hidden states `x` before the block, for those by the ones after it.
    fn backward(&self, b: &B, x: &[f32], grad: &[f32], pass: &Pass<'_, B>) -> Result<Vec<f32>, PortError>;
}

/// What the rows of one session bring to a block.
pub(crate) struct Sequence<'a, B: Arithmetic> {
    pub frame: &'a B::Frame,
    pub cache: &'a mut B::Cache,
    /// Rows that are its own.
    pub rows: usize,
}

/// Whose rows a block is given, in the order of the rows.
struct Sequences<'a, B: Arithmetic> {
    all: Vec<Sequence<'a, B>>,
    heads: Heads,
}

impl<B: Arithmetic> Sequences<'_, B> {
    /// Attention of each session's rows over its own cache: the one thing in a block that is not the same for all rows.
    fn attend(&mut self, b: &B, qkv: [B::Rows; 3]) -> Result<B::Rows, PortError> {
        if let [only] = &mut self.all[..] {
            return b.attend(qkv, only.cache, only.frame, self.heads);
        }
        let [q, k, v] = &qkv;
        let (mut start, mut mixed) = (0, Vec::with_capacity(self.all.len()));
        for Sequence { frame, cache, rows } in &mut self.all {
            let end = start + *rows;
            let own = [b.part(q, start, end)?, b.part(k, start, end)?, b.part(v, start, end)?];
            mixed.push(b.attend(own, cache, frame, self.heads)?);
            start = end;
        }
        b.join(mixed)
    }
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
        let (frequencies, host_slopes) = match &model.positions {
            Positions::Rope(frequencies) => (Some(frequencies.clone()), None),
            Positions::Alibi(slopes) => (None, Some(slopes.clone())),
        };
        let slopes = host_slopes.clone().map(|slopes| b.vector(slopes)).transpose()?;
        let blocks = blocks.map(load).collect::<Result<_, _>>()?;
        Ok(Self { blocks, heads: model.heads, frequencies, slopes, host_slopes })
    }

    /// An empty cache of one block.
    pub(crate) fn cache(&self, b: &B, batch: usize, length: usize) -> Result<B::Cache, PortError> {
        b.cache(batch, length, self.heads)
    }

    /// What all blocks share in a step at `place`.
    pub(crate) fn frame(&self, b: &B, place: Place) -> Result<B::Frame, PortError> {
        let positions = place.position..place.position + place.seq;
        let turns = self.frequencies.as_ref().map(|frequencies| turns(frequencies, positions));
        b.frame(place, turns, self.slopes.as_ref())
    }

    /// Runs `x`, the rows of `sequences` one after the other, through the block of that number.
    pub(crate) fn forward(
        &self,
        b: &B,
        block: usize,
        x: B::Rows,
        sequences: Vec<Sequence<'_, B>>,
    ) -> Result<B::Rows, PortError> {
        self.blocks[block].forward(b, x, &mut Sequences { all: sequences, heads: self.heads })
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
    host_scale: Vec<f32>,
    /// `None` is a root-mean-square norm.
    shift: Option<B::Vector>,
    eps: f32,
}

impl<B: Arithmetic> Norm<B> {
    fn load(b: &B, model: &Description, tensors: Tensors<'_>, name: &str) -> Result<Self, PortError> {
        let vector = |part: &str| tensors.vector(&format!("{name}.{part}"), model.hidden);
        let shift = match model.norm {
            NormKind::Layer => Some(b.vector(vector("bias")?)?),
            NormKind::Rms => None,
        };
        let host_scale = vector("weight")?;
        Ok(Self { scale: b.vector(host_scale.clone())?, host_scale, shift, eps: model.eps })
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
