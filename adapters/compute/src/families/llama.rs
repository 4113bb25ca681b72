//! A block of Llama (Touvron et al., 2023).

use corolla_checkpoint::{Description, LlamaBlock, Tensors};
use corolla_domain::ports::PortError;

use super::{Block, Linear, Norm, Pass, Sequences, gradient};
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

    fn backward(&self, b: &B, x: &[f32], grad: &[f32], pass: &Pass<'_, B>) -> Result<Vec<f32>, PortError> {
        let rows = pass.rows(b, x.to_vec())?;
        let normed = self.attention_norm.of(b, &rows)?;
        let layer = |layer: &Linear<B>, x: &B::Rows| b.numbers(layer.of(b, x)?);
        let qkv = [layer(&self.query, &normed)?, layer(&self.key, &normed)?, layer(&self.value, &normed)?];
        let mixed = pass.attend(b, &qkv)?;
        let carried = b.numbers(b.add(rows, &self.output.of(b, &mixed)?)?)?;
        let normed = self.inner_norm.of(b, &pass.rows(b, carried.clone())?)?;
        let (gate, up) = (layer(&self.gate, &normed)?, layer(&self.up, &normed)?);

        let back = |layer: &Linear<B>, grad: Vec<f32>| pass.linear_gradient(b, layer, grad);
        let (by_gate, by_up) = gradient::gated(&gate, &up, &back(&self.down, grad.to_vec())?);
        let by_normed = gradient::joined(back(&self.gate, by_gate)?, &back(&self.up, by_up)?);
        let by_carried = gradient::joined(self.inner_norm.gradient(&carried, &by_normed), grad);

        let by_mixed = back(&self.output, by_carried.clone())?;
        let [by_query, by_key, by_value] = pass.attention_gradient(qkv, &by_mixed);
        let by_normed = gradient::joined(back(&self.query, by_query)?, &back(&self.key, by_key)?);
        let by_normed = gradient::joined(by_normed, &back(&self.value, by_value)?);
        Ok(gradient::joined(self.attention_norm.gradient(x, &by_normed), &by_carried))
    }
}
