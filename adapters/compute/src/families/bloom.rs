//! A block of BLOOM (Le Scao et al., 2022).

use corolla_checkpoint::{BloomBlock, Description, Tensors};
use corolla_domain::ports::PortError;

use super::{Block, Linear, Norm, Pass, Sequences, gradient};
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

    fn backward(&self, b: &B, x: &[f32], grad: &[f32], pass: &Pass<'_, B>) -> Result<Vec<f32>, PortError> {
        let rows = pass.rows(b, x.to_vec())?;
        let normed = self.attention_norm.of(b, &rows)?;
        let qkv = self.qkv.of(b, &normed)?;
        let part = |nth: usize| b.numbers(b.columns(&qkv, nth * self.hidden, (nth + 1) * self.hidden)?);
        let parts = [part(0)?, part(1)?, part(2)?];
        let mixed = pass.attend(b, &parts)?;
        let kept = if self.residual_after_norm { normed } else { rows };
        let carried = b.numbers(b.add(kept, &self.output.of(b, &mixed)?)?)?;
        let normed = self.inner_norm.of(b, &pass.rows(b, carried.clone())?)?;
        let inner = b.numbers(self.up.of(b, &normed)?)?;

        let back = |layer: &Linear<B>, grad: Vec<f32>| pass.linear_gradient(b, layer, grad);
        let mut by_inner = back(&self.down, grad.to_vec())?;
        gradient::gelu(&inner, &mut by_inner);
        let by_carried = self.around(&self.inner_norm, &carried, back(&self.up, by_inner)?, grad);

        let by_mixed = back(&self.output, by_carried.clone())?;
        let by_parts = pass.attention_gradient(parts, &by_mixed);
        let [queries, keys, values] = by_parts.each_ref().map(|part| part.chunks_exact(self.hidden));
        let by_qkv = queries.zip(keys).zip(values).flat_map(|((query, key), value)| [query, key, value].concat());
        Ok(self.around(&self.attention_norm, x, back(&self.qkv, by_qkv.collect())?, &by_carried))
    }
}

impl<B: Arithmetic> Bloom<B> {
    /// Back through the norm of `x`, and past the layers after it by the way that is carried around them.
    fn around(&self, norm: &Norm<B>, x: &[f32], by_normed: Vec<f32>, carried: &[f32]) -> Vec<f32> {
        if self.residual_after_norm {
            return norm.gradient(x, &gradient::joined(by_normed, carried));
        }
        gradient::joined(norm.gradient(x, &by_normed), carried)
    }
}
