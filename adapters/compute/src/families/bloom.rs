//! A block of BLOOM (Le Scao et al., 2022).

use corolla_checkpoint::{BloomBlock, Description, Tensors};
use corolla_domain::ports::PortError;

use super::{Block, Linear, Norm, Sequences};
use crate::arithmetic::Arithmetic;

pub(super) struct Bloom<B: Arithmetic> {
    attention_norm: Norm<B>,
    qkv: Linear<B>,
    output: Linear<B>,
    inner_norm: Norm<B>,
    up: Linear<B>,
    down: Linear<B>,
    residual_after_norm: bool,
    hidden: usize,
}

impl<B: Arithmetic> Bloom<B> {
    pub(super) fn load(b: &B, model: &Description, tensors: Tensors<'_>, plan: &BloomBlock) -> Result<Self, PortError> {
        Ok(Self {
            attention_norm: Norm::load(b, model, tensors, &plan.attention_norm)?,
            qkv: Linear::load(b, tensors, &plan.qkv)?,
            output: Linear::load(b, tensors, &plan.output)?,
            inner_norm: Norm::load(b, model, tensors, &plan.inner_norm)?,
            up: Linear::load(b, tensors, &plan.up)?,
            down: Linear::load(b, tensors, &plan.down)?,
            residual_after_norm: plan.residual_after_norm,
            hidden: model.hidden,
        })
    }
}

impl<B: Arithmetic> Block<B> for Bloom<B> {
    fn forward(&self, b: &B, x: B::Rows, sequences: &mut Sequences<'_, B>) -> Result<B::Rows, PortError> {
        let normed = self.attention_norm.of(b, &x)?;
        let qkv = self.qkv.of(b, &normed)?;
        let part = |nth: usize| b.columns(&qkv, nth * self.hidden, (nth + 1) * self.hidden);
        let mixed = sequences.attend(b, [part(0)?, part(1)?, part(2)?])?;
        let carried = if self.residual_after_norm { normed } else { x };
        let carried = b.add(carried, &self.output.of(b, &mixed)?)?;

        let normed = self.inner_norm.of(b, &carried)?;
        let inner = b.gelu(self.up.of(b, &normed)?)?;
        let x = if self.residual_after_norm { normed } else { carried };
        b.add(x, &self.down.of(b, &inner)?)
    }
}
