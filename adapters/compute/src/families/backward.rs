//! Blocks backwards: derivatives of a loss by what goes into a block, for those by what comes out of it. Weights are frozen.
//!
//! Products run on the arithmetic; what lies between them is done in f32 on the host, once for all libraries.

use corolla_checkpoint::Heads;
use corolla_domain::ports::PortError;

use super::{Blocks, Linear, Norm, attention_gradient::Attention, gradient, turns};
use crate::arithmetic::{Arithmetic, Place};

/// Some rows on their way through one block, forth and back.
pub(super) struct Pass<'a, B: Arithmetic> {
    frame: &'a B::Frame,
    heads: Heads,
    place: Place,
    attention: Attention<'a>,
}

impl<B: Arithmetic> Blocks<B> {
    /// Derivatives by the hidden states before block number `nth`. `x` are these, `grad` the derivatives by those after it,
    /// both `[batch * seq, hidden]`, and the first of the `seq` positions is position 0.
    pub(crate) fn backward(
        &self,
        b: &B,
        nth: usize,
        (x, grad): (&[f32], &[f32]),
        (batch, seq): (usize, usize),
    ) -> Result<Vec<f32>, PortError> {
        let turns = self.frequencies.as_ref().map(|frequencies| turns(frequencies, 0..seq));
        let place = Place { batch, seq, position: 0 };
        let frame = b.frame(place, turns.clone(), self.slopes.as_ref())?;
        let slopes = self.host_slopes.as_deref();
        let attention = Attention { seq, heads: self.heads, turns: turns.as_deref(), slopes };
        self.blocks[nth].backward(b, x, grad, &Pass { frame: &frame, heads: self.heads, place, attention })
    }
}

impl<B: Arithmetic> Pass<'_, B> {
    /// Numbers of all positions as rows.
    pub(super) fn rows(&self, b: &B, numbers: Vec<f32>) -> Result<B::Rows, PortError> {
        let width = numbers.len() / (self.place.batch * self.place.seq);
        b.rows(numbers, width)
    }

    /// Mixed values for queries, keys and values.
    pub(super) fn attend(&self, b: &B, qkv: &[Vec<f32>; 3]) -> Result<B::Rows, PortError> {
        let rows = |nth: usize| self.rows(b, qkv[nth].clone());
        let mut cache = b.cache(self.place.batch, self.place.seq, self.heads)?;
        b.attend([rows(0)?, rows(1)?, rows(2)?], &mut cache, self.frame, self.heads)
    }

    /// Back through [`attend`](Self::attend): derivatives by queries, keys and values.
    pub(super) fn attention_gradient(&self, qkv: [Vec<f32>; 3], grad: &[f32]) -> [Vec<f32>; 3] {
        self.attention.gradient(qkv, grad)
    }

    /// Back through a linear layer.
    pub(super) fn linear_gradient(&self, b: &B, linear: &Linear<B>, grad: Vec<f32>) -> Result<Vec<f32>, PortError> {
        b.numbers(b.product_gradient(&self.rows(b, grad)?, &linear.weight)?)
    }
}

impl<B: Arithmetic> Norm<B> {
    /// Back through the norm of `x`.
    pub(super) fn gradient(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        gradient::norm(x, grad, &self.host_scale, self.eps, self.shift.is_some())
    }
}
