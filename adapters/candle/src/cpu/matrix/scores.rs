//! Scores over the vocabulary, of which a caller wants a part: a screen finds the highest without computing all.

use std::borrow::Cow;

use corolla_compute::pick;
use corolla_domain::{
    model::{LogitRow, TokenId, Want},
    ports::PortError,
};

use super::{Data, Matrix};
use crate::{
    config::Activations,
    cpu::{
        kernels::{self, Kernels, RoundedRows},
        pool::Pool,
        screen::{Scored, Screen, ScreenFile, Shape},
    },
};

impl Matrix {
    /// The same with a screen over its rows. Without one where weights are quantised: they are as small as it is.
    /// It is kept in `file`, where one is given.
    pub(in crate::cpu) fn screened(mut self, file: Option<&ScreenFile>, pool: &Pool) -> Result<Self, PortError> {
        let rows = match &self.data {
            Data::F32(numbers) => numbers.len() / self.cols,
            Data::Bf16(bits) | Data::F16(bits) => bits.len() / self.cols,
            Data::Quantised(_) => return Ok(self),
        };
        let screen = Screen::new(Shape { rows, cols: self.cols }, file, pool, |row, numbers| self.widen(row, numbers))?;
        self.screen = Some(screen);
        Ok(self)
    }

    /// What each of `wants` names of the products of one row of `x`; `None` where there is no screen. Scores that are not
    /// wanted in whole are those that [`Matrix::product`] has for one row, to the bit, however many rows there are.
    pub(in crate::cpu) fn scores(
        &self,
        with: (&Kernels, &Pool),
        x: &[f32],
        wants: &[&Want],
        activations: Activations,
    ) -> Result<Option<Vec<LogitRow>>, PortError> {
        let Some(screen) = &self.screen else { return Ok(None) };
        let row = |nth: usize| &x[nth * self.cols..][..self.cols];
        let together = |some: &[usize]| some.iter().flat_map(|nth| row(*nth)).copied().collect::<Vec<f32>>();
        let mut scores: Vec<Option<LogitRow>> = vec![None; wants.len()];
        let few = |want: &Want| matches!(want, Want::Top { k, also } if k.saturating_add(also.len()) <= screen.most());
        let screened: Vec<usize> = (0..wants.len()).filter(|nth| few(wants[*nth])).collect();
        if !screened.is_empty() {
            let tops: Vec<&Want> = screened.iter().map(|nth| wants[*nth]).collect();
            let found = self.highest(screen, with, &together(&screened), &tops, activations)?;
            screened.iter().zip(found).for_each(|(nth, found)| scores[*nth] = found);
        }
        let (whole, part): (Vec<usize>, Vec<usize>) =
            (0..wants.len()).filter(|nth| scores[*nth].is_none()).partition(|nth| *wants[*nth] == Want::All);
        let all = |some: &[usize]| self.product(with, &together(some), &RoundedRows::default(), activations);
        for some in part.chunks(1).chain([&whole[..]]).filter(|some| !some.is_empty()) {
            let products = all(some);
            let rows = products.chunks_exact(products.len() / some.len());
            some.iter().zip(rows).for_each(|(nth, row)| scores[*nth] = Some(pick(row, wants[*nth])));
        }
        Ok(Some(scores.into_iter().flatten().collect()))
    }

    /// What the screen finds; `None` for rows of `x` of which all products have to be computed.
    fn highest(
        &self,
        screen: &Screen,
        with: (&Kernels, &Pool),
        x: &[f32],
        wants: &[&Want],
        activations: Activations,
    ) -> Result<Vec<Option<LogitRow>>, PortError> {
        let x = self.multiplied(with.0, x, activations);
        let exact = |nth: usize, rows: &[u32]| self.some_products(with, &x[nth * self.cols..][..self.cols], rows);
        let counts: Vec<usize> = wants.iter().map(|want| if let Want::Top { k, .. } = want { *k } else { 0 }).collect();
        let found = screen.highest(with, &x, &counts, exact)?;
        let with_named = |(nth, best): (usize, Option<Scored>)| {
            let mut pairs = best?;
            if let Want::Top { also, .. } = wants[nth] {
                let named: Vec<u32> = also.iter().map(|token| token.0).collect();
                pairs.extend(named.iter().copied().zip(exact(nth, &named)));
            }
            pairs.sort_unstable_by_key(|(row, _)| *row);
            pairs.dedup_by_key(|(row, _)| *row);
            Some(LogitRow::Sparse(pairs.into_iter().map(|(row, score)| (TokenId(row), score)).collect()))
        };
        Ok(found.into_iter().enumerate().map(with_named).collect())
    }

    /// `x` as [`Matrix::product`] multiplies one row of it.
    fn multiplied<'a>(&self, kernels: &Kernels, x: &'a [f32], activations: Activations) -> Cow<'a, [f32]> {
        match &self.data {
            Data::Bf16(_) if activations != Activations::F32 => kernels::narrowed(kernels, x, self.cols),
            _ => Cow::Borrowed(x),
        }
    }

    /// Products of one row of activations, as [`Matrix::multiplied`] has them, with some rows.
    fn some_products(&self, (kernels, pool): (&Kernels, &Pool), x: &[f32], rows: &[u32]) -> Vec<f32> {
        match &self.data {
            Data::F32(numbers) => kernels::some_rows(pool, x, numbers, kernels.dot, rows),
            Data::Bf16(bits) => kernels::some_rows(pool, x, bits, kernels.dot_bf16, rows),
            Data::F16(bits) => kernels::some_rows(pool, x, bits, kernels.dot_f16, rows),
            // Never screened.
            Data::Quantised(_) => Vec::new(),
        }
    }
}
