//! A caller's tensors for `rpc_backward` (wire protocol §6.5), checked, and the gradients that go back.

use corolla_domain::{
    model::{BlockRange, ElementType, Hidden},
    ports::{BackwardInput, Gradients},
};

use super::{config::ServerConfig, input, refusal::Refusal};
use crate::wire::{
    proto::{Compression, Tensor},
    tensor,
};

/// A pass that is asked for: shapes fit each other and the limits, nothing is decoded yet.
pub(super) struct Backward {
    hidden: Tensor,
    gradient: Tensor,
    prompts: Option<Tensor>,
    shape: (usize, usize, usize),
    /// Blocks, rows, positions and width of the derivatives by prompts.
    by_prompts: Option<[usize; 4]>,
}

impl Backward {
    /// Reads `[inputs, grad_outputs, prompts]`.
    pub(super) fn read(config: &ServerConfig, blocks: BlockRange, arguments: Vec<Tensor>) -> Result<Self, Refusal> {
        let count = arguments.len();
        let mut tensors = arguments.into_iter();
        let (Some(hidden), Some(gradient), Some(prompts)) = (tensors.next(), tensors.next(), tensors.next()) else {
            let text = format!("not enough values to unpack (expected at least 3, got {count})");
            return Err(Refusal::value(text));
        };
        let shape = input::shape(config, &hidden)?;
        if gradient.size != hidden.size {
            let text = format!("grad_outputs of shape {:?} for inputs of shape {:?}", gradient.size, hidden.size);
            return Err(Refusal::value(text));
        }
        let prompts = Some(prompts).filter(|prompts| !input::is_dummy(prompts));
        let by_prompts = match &prompts {
            None => None,
            Some(prompts) => {
                let [count, _, positions, width] = input::prompt_sides(blocks, shape, prompts)?;
                let sides = [count, shape.0, positions, width];
                let most = tensor::Limits::default().elements;
                if sides.iter().product::<usize>() > most {
                    let text = format!("gradients of prompts of shape {sides:?} are more than {most} numbers");
                    return Err(Refusal::value(text));
                }
                Some(sides)
            }
        };
        Ok(Self { hidden, gradient, prompts, shape, by_prompts })
    }

    /// Rows, positions, width.
    pub(super) fn shape(&self) -> (usize, usize, usize) {
        self.shape
    }

    /// Whether there will be gradients of prompts.
    pub(super) fn has_prompts(&self) -> bool {
        self.by_prompts.is_some()
    }

    /// Most bytes of the gradients.
    pub(super) fn reply_bytes(&self) -> usize {
        let (batch, seq, width) = self.shape;
        input::bytes([batch, seq, width]).saturating_add(self.by_prompts.map_or(0, input::bytes))
    }

    /// What the blocks are given; `None` where there is nothing to compute: no positions.
    pub(super) fn decode(self, config: &ServerConfig, blocks: BlockRange) -> Result<Option<BackwardInput>, Refusal> {
        if self.shape.1 == 0 {
            return Ok(None);
        }
        let prompts = match &self.prompts {
            Some(prompts) => input::prompts_of(config, blocks, self.shape, prompts)?.states(self.shape.2)?,
            None => Vec::new(),
        };
        let [hidden, gradient] = [&self.hidden, &self.gradient].map(|tensor| input::states(tensor, config));
        Ok(Some(BackwardInput { hidden: hidden?, gradient: gradient?, prompts }))
    }
}

/// Gradients as they leave: those of the inputs, and where there are prompts `[blocks, rows, positions, width]` of them.
pub(super) fn output(
    gradients: &Gradients,
    dtype: ElementType,
    codecs: &[Compression],
) -> Result<Vec<Tensor>, Refusal> {
    let codec = |nth: usize| codecs.get(nth).copied().unwrap_or(Compression::None);
    let mut tensors = vec![input::output(&gradients.hidden, dtype, codec(0))?];
    if let Some(first) = gradients.prompts.first() {
        let below = input::output(&Hidden::stack(&gradients.prompts)?, dtype, codec(1))?;
        let sides = [gradients.prompts.len(), first.batch(), first.seq(), first.width()];
        tensors.push(Tensor { size: sides.map(|side| side as u32).to_vec(), ..below });
    }
    Ok(tensors)
}
