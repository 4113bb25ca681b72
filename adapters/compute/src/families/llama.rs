//! A block of Llama (Touvron et al., 2023).

use corolla_checkpoint::{Description, LlamaBlock, Tensors};
use corolla_domain::ports::PortError;

use super::{Block, Linear, Norm, Sequences};
use crate::arithmetic::Arithmetic;

pub(super) struct Llama<B: Arithmetic> {
    attention_norm: Norm<B>,
    query: Linear<B>,
    key: Linear<B>,
    value: Linear<B>,
    output: Linear<B>,
    inner_norm: Norm<B>,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
}

impl<B: Arithmetic> Llama<B> {
    pub(super) fn load(b: &B, model: &Description, tensors: Tensors<'_>, plan: &LlamaBlock) -> Result<Self, PortError> {
        Ok(Self {
            attention_norm: Norm::load(b, model, tensors, &plan.attention_norm)?,
            query: Linear::load(b, tensors, &plan.query)?,
            key: Linear::load(b, tensors, &plan.key)?,
            value: Linear::load(b, tensors, &plan.value)?,
            output: Linear::load(b, tensors, &plan.output)?,
            inner_norm: Norm::load(b, model, tensors, &plan.inner_norm)?,
            gate: Linear::load(b, tensors, &plan.gate)?,
            up: Linear::load(b, tensors, &plan.up)?,
            down: Linear::load(b, tensors, &plan.down)?,
        })
    }
}

impl<B: Arithmetic> Block<B> for Llama<B> {
    fn forward(&self, b: &B, x: B::Rows, sequences: &mut Sequences<'_, B>) -> Result<B::Rows, PortError> {
        let normed = self.attention_norm.of(b, &x)?;
        let qkv = [self.query.of(b, &normed)?, self.key.of(b, &normed)?, self.value.of(b, &normed)?];
        let mixed = sequences.attend(b, qkv)?;
        let x = b.add(x, &self.output.of(b, &mixed)?)?;

        let normed = self.inner_norm.of(b, &x)?;
        let inner = b.gated(self.gate.of(b, &normed)?, &self.up.of(b, &normed)?)?;
        b.add(x, &self.down.of(b, &inner)?)
    }
}
