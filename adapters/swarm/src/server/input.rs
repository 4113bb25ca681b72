//! A caller's tensors, checked.

use std::ops::Range;

use corolla_domain::model::{BlockRange, ElementType, Hidden};

use super::{config::ServerConfig, refusal::Refusal};
use crate::wire::{
    proto::{Compression, Tensor},
    serving::parse_uids,
    tensor::{self, DecodedTensor, Dtype},
};

/// Rows that are put on the first positions of each block's input (§6.4).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompts {
    /// Of each block `[batch or 1, positions, width]`.
    blocks: Vec<Vec<f32>>,
    batch: usize,
    positions: usize,
}

/// What a step or a forward pass is over.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Input {
    /// `None` where there is nothing to compute: no positions.
    pub(super) hidden: Option<Hidden>,
    /// Rows, positions, width.
    pub(super) shape: (usize, usize, usize),
    pub(super) prompts: Option<Prompts>,
    /// For each row of the cache, which row it was before.
    pub(super) rows: Option<Vec<usize>>,
}

/// The blocks that a request names, all of which must be here.
pub(super) fn blocks(config: &ServerConfig, uids: &str) -> Result<BlockRange, Refusal> {
    if uids.is_empty() {
        return Err(Refusal::new("RuntimeError", "User did not provide any uids"));
    }
    let Range { start, end } = parse_uids(uids, &config.dht_prefix).map_err(|uid| Refusal::unknown_uid(&uid))?;
    let range = BlockRange::new(start, end).filter(|range| config.blocks.contains(*range));
    range.ok_or_else(|| {
        let stranger = (start..end).find(|block| *block < config.blocks.start() || *block >= config.blocks.end());
        Refusal::unknown_uid(&format!("{}.{}", config.dht_prefix, stranger.unwrap_or(start)))
    })
}

/// Reads the arguments of a step or a forward pass over `blocks`.
pub(super) fn input(config: &ServerConfig, blocks: BlockRange, arguments: Vec<Tensor>) -> Result<Input, Refusal> {
    let mut tensors = arguments.into_iter();
    let hidden = tensors.next().ok_or_else(|| Refusal::value("not enough values to unpack"))?;
    let shape = shape(config, &hidden)?;
    let hidden = match shape {
        (_, 0, _) => None,
        _ => Some(states(&hidden, config)?),
    };
    let prompts = tensors.next().filter(|tensor| !is_dummy(tensor));
    let prompts = prompts.map(|tensor| prompts_of(config, blocks, shape, &tensor)).transpose()?;
    let rows = tensors.next().map(|tensor| rows(&tensor, shape.0)).transpose()?.flatten();
    Ok(Input { hidden, shape, prompts, rows })
}

/// Rows, positions and width of hidden states that may be computed here.
pub(super) fn shape(config: &ServerConfig, hidden: &Tensor) -> Result<(usize, usize, usize), Refusal> {
    let &[batch, seq, width] = &hidden.size[..] else {
        return Err(Refusal::assertion("hidden_states must be a 3d tensor"));
    };
    let (batch, seq, width) = (batch as usize, seq as usize, width as usize);
    if width != config.hidden {
        let text = format!("hidden states of {width} numbers for a model of {}", config.hidden);
        return Err(Refusal::value(text));
    }
    let most = config.limits.max_batch;
    if batch == 0 {
        return Err(Refusal::value("hidden states of no rows"));
    }
    if batch.checked_mul(seq.max(1)).is_none_or(|tokens| tokens > most) {
        return Err(Refusal::too_large(most));
    }
    Ok((batch, seq, width))
}

/// Hidden states in a type that the blocks take.
pub(super) fn states(tensor: &Tensor, config: &ServerConfig) -> Result<Hidden, Refusal> {
    let decoded = decode(tensor, config.limits.max_batch.saturating_mul(config.hidden))?;
    match decoded.dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Ok(decoded.to_hidden()?),
        Dtype::F64 => {
            let single: Vec<u8> = decoded.to_f64().iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
            Ok(DecodedTensor { dtype: Dtype::F32, data: single.into(), ..decoded }.to_hidden()?)
        }
        other => Err(Refusal::value(format!("hidden states must be of a floating type, got torch.{}", other.name()))),
    }
}

/// Blocks, rows, positions and width of deep prompts for hidden states of that shape.
pub(super) fn prompt_sides(
    blocks: BlockRange,
    (batch, seq, width): (usize, usize, usize),
    tensor: &Tensor,
) -> Result<[usize; 4], Refusal> {
    let &[count, rows, positions, numbers] = &tensor.size[..] else {
        return Err(Refusal::value(format!("deep prompts must have 4 sides, got {:?}", tensor.size)));
    };
    let sides = [count, rows, positions, numbers].map(|side| side as usize);
    let [count, rows, positions, numbers] = sides;
    if count != blocks.len() {
        return Err(Refusal::value(format!("Received {count} prompts for {} backends", blocks.len())));
    }
    if numbers != width || (rows != 1 && rows != batch) || positions == 0 || positions > seq {
        let text = format!("deep prompts of shape {sides:?} for hidden states of shape [{batch}, {seq}, {width}]");
        return Err(Refusal::value(text));
    }
    Ok(sides)
}

pub(super) fn prompts_of(
    config: &ServerConfig,
    blocks: BlockRange,
    shape: (usize, usize, usize),
    tensor: &Tensor,
) -> Result<Prompts, Refusal> {
    let [count, rows, positions, width] = prompt_sides(blocks, shape, tensor)?;
    let most = count.saturating_mul(config.limits.max_batch).saturating_mul(width);
    let decoded = decode(tensor, most.min(tensor::Limits::default().elements))?;
    if !decoded.dtype.is_float() {
        return Err(Refusal::value("deep prompts must be of a floating type"));
    }
    let all: Vec<f32> = decoded.to_f64().into_iter().map(|v| v as f32).collect();
    let blocks = all.chunks_exact(rows * positions * width).map(<[f32]>::to_vec).collect();
    Ok(Prompts { blocks, batch: rows, positions })
}

/// The order that rows of a cache are to be in; `None` where they stay as they are.
fn rows(tensor: &Tensor, batch: usize) -> Result<Option<Vec<usize>>, Refusal> {
    if tensor.dtype != Dtype::I64.name() {
        let name: String = tensor.dtype.chars().take(32).collect();
        return Err(Refusal::assertion(format!("hypo ids must be int64, got torch.{name}")));
    }
    if is_dummy(tensor) {
        return Ok(None);
    }
    if tensor.size.len() != 1 || tensor.size[0] as usize != batch {
        return Err(Refusal::value(format!("hypo_ids of shape {:?} for {batch} rows", tensor.size)));
    }
    let numbers = decode(tensor, batch)?.to_f64();
    let row = |number: f64| (number >= 0.0 && number < batch as f64).then_some(number as usize);
    let rows: Option<Vec<usize>> = numbers.into_iter().map(row).collect();
    let rows = rows.ok_or_else(|| Refusal::value("hypo_ids name rows that are not there"))?;
    Ok((!rows.iter().copied().eq(0..batch)).then_some(rows))
}

fn decode(tensor: &Tensor, elements: usize) -> Result<DecodedTensor, Refusal> {
    Ok(tensor::decode(tensor, tensor::Limits { elements })?)
}

pub(super) fn is_dummy(tensor: &Tensor) -> bool {
    tensor.size.contains(&0)
}

/// Bytes of tensors as they came.
pub(super) fn weight(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.buffer.len()).sum()
}

/// Bytes of a tensor of that shape in single precision.
pub(super) fn bytes<const N: usize>(sides: [usize; N]) -> usize {
    sides.iter().fold(4, |bytes: usize, side| bytes.saturating_mul(*side))
}

impl Prompts {
    /// Those of each block, as the blocks take them.
    pub(super) fn states(&self, width: usize) -> Result<Vec<Hidden>, Refusal> {
        let shape = (self.batch, self.positions, width);
        self.blocks.iter().map(|prompt| Ok(Hidden::from_f32(shape, prompt)?)).collect()
    }

    /// Adds the prompt of the block that is number `nth` of the request to its input.
    pub(super) fn add(&self, nth: usize, hidden: &Hidden) -> Result<Hidden, Refusal> {
        let (batch, seq, width) = (hidden.batch(), hidden.seq(), hidden.width());
        let Some(prompt) = self.blocks.get(nth) else { return Ok(hidden.clone()) };
        let mut numbers = hidden.to_f32();
        let length = self.positions * width;
        for (row, states) in numbers.chunks_exact_mut(seq * width).enumerate() {
            let from = if self.batch == 1 { 0 } else { row * length };
            states.iter_mut().zip(&prompt[from..from + length]).for_each(|(state, add)| *state += add);
        }
        Ok(Hidden::from_f32((batch, seq, width), &numbers)?)
    }
}

/// Results as they leave.
pub(super) fn output(hidden: &Hidden, dtype: ElementType, compression: Compression) -> Result<Tensor, Refusal> {
    // bfloat16 does not travel compressed; single precision goes in its place.
    let dtype = if compression == Compression::None { dtype } else { ElementType::F32 };
    Ok(tensor::encode(&tensor::cast(hidden, dtype)?, compression)?)
}

/// The answer to a step over no positions.
pub(super) fn nothing((batch, _, width): (usize, usize, usize), dtype: ElementType) -> Tensor {
    Tensor { size: vec![batch as u32, 0, width as u32], ..tensor::dummy(dtype.into()) }
}
