//! Scores over the vocabulary, of which a caller wants a part: a screen finds the highest without computing all.

use std::borrow::Cow;

use corolla_compute::pick;
use corolla_domain::{
    fit,
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
    pub(in crate::cpu) fn screened(
        mut self,
        form: fit::Screen,
        file: Option<ScreenFile>,
        pool: &Pool,
    ) -> Result<Self, PortError> {
        let rows = match &self.data {
            Data::F32(numbers) => numbers.len() / self.cols,
            Data::Bf16(bits) | Data::F16(bits) => bits.len() / self.cols,
            Data::Quantised(_) => return Ok(self),
        };
        let shape = Shape { rows, cols: self.cols, form };
        let screen = Screen::new(shape, file, pool, |row, numbers| self.widen(row, numbers))?;
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
        let few = |want: &Want| match want {
            Want::All => false,
            Want::Top { k, also } => k.saturating_add(also.len()) <= screen.most(),
            Want::Drawn(draw) => draw.penalties.named().len() < screen.most(),
        };
        let screened: Vec<usize> = (0..wants.len()).filter(|nth| few(wants[*nth])).collect();
        if !screened.is_empty() {
            let tops: Vec<&Want> = screened.iter().map(|nth| wants[*nth]).collect();
            let found = self.best(screen, with, &together(&screened), &tops, activations)?;
            screened.iter().zip(found).for_each(|(nth, found)| scores[*nth] = found);
        }
        let (whole, part): (Vec<usize>, Vec<usize>) =
            (0..wants.len()).filter(|nth| scores[*nth].is_none()).partition(|nth| *wants[*nth] == Want::All);
        let mut settle = |some: &[usize], products: &[f32]| {
            let rows = products.chunks_exact(products.len() / some.len());
            some.iter().zip(rows).for_each(|(nth, row)| scores[*nth] = Some(pick(row, wants[*nth])));
        };
        if !part.is_empty() {
            settle(&part, &self.lone_products(with, &together(&part), activations));
        }
        if !whole.is_empty() {
            settle(&whole, &self.product(with, &together(&whole), &RoundedRows::default(), activations));
        }
        Ok(Some(scores.into_iter().flatten().collect()))
    }

    /// What the screen finds; `None` for rows of `x` of which all products have to be computed.
    fn best(
        &self,
        screen: &Screen,
        with: (&Kernels, &Pool),
        x: &[f32],
        wants: &[&Want],
        activations: Activations,
    ) -> Result<Vec<Option<LogitRow>>, PortError> {
        let x = self.multiplied(with.0, x, activations);
        let exact = |nth: usize, rows: &[u32]| self.some_products(with, &x[nth * self.cols..][..self.cols], rows);
        let found = screen.best(with, &x, wants, exact)?;
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

    /// Products of each row of `x`, to the bit those that [`Matrix::product`] has where it is alone. Weights are read once.
    fn lone_products(&self, (kernels, pool): (&Kernels, &Pool), x: &[f32], activations: Activations) -> Vec<f32> {
        let x = self.multiplied(kernels, x, activations);
        match &self.data {
            Data::F32(numbers) => kernels::lone_products(pool, &x, numbers, self.cols, kernels.several_f32),
            Data::Bf16(bits) => kernels::lone_products(pool, &x, bits, self.cols, kernels.several_bf16),
            Data::F16(bits) => kernels::lone_products(pool, &x, bits, self.cols, kernels.several_f16),
            // Never screened.
            Data::Quantised(_) => Vec::new(),
        }
    }

    /// Products of one row of activations, as [`Matrix::multiplied`] has them, with some rows.
    fn some_products(&self, (kernels, pool): (&Kernels, &Pool), x: &[f32], rows: &[u32]) -> Vec<f32> {
        match &self.data {
            Data::F32(numbers) => kernels::some_products(pool, x, numbers, kernels.dot, rows),
            Data::Bf16(bits) => kernels::some_products(pool, x, bits, kernels.dot_bf16, rows),
            Data::F16(bits) => kernels::some_products(pool, x, bits, kernels.dot_f16, rows),
            // Never screened.
            Data::Quantised(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use corolla_domain::generation::{Sampler, Sampling};
    use testkit::local_model::noise;

    use super::{super::Numbers, *};

    const ROWS: usize = 4000;
    const COLS: usize = 64;

    fn matrix(numbers: &[f32], form: usize) -> Matrix {
        let halves = |bits: fn(f32) -> u16| Numbers::Own(numbers.iter().map(|number| bits(*number)).collect());
        let data = match form {
            0 => Data::F32(Numbers::Own(numbers.to_vec())),
            1 => Data::Bf16(halves(|number| half::bf16::from_f32(number).to_bits())),
            _ => Data::F16(halves(|number| half::f16::from_f32(number).to_bits())),
        };
        Matrix { cols: COLS, data, screen: None }
    }

    fn bits(row: &LogitRow) -> Vec<(TokenId, u32)> {
        row.clone().into_pairs().into_iter().map(|(token, score)| (token, score.to_bits())).collect()
    }

    #[test]
    fn a_mixed_batch_has_the_scores_of_lone_rows_and_the_screen_answers() {
        let (pool, kernels) = (Pool::new(Some(2)).unwrap(), kernels::kernels(None).unwrap());
        let (with, numbers) = ((&kernels, &pool), noise(ROWS * COLS, 3));
        let row = |nth: usize| numbers[nth * COLS..][..COLS].to_vec();
        let top = |k, also: &[u32]| Want::Top { k, also: also.iter().copied().map(TokenId).collect() };
        let sampler = |sampling| Sampler::new(sampling, &[TokenId(3)], 7);
        // Along rows of the head; zeros, of which no row leads; without a pattern.
        let batch = [
            (row(17), top(1, &[])),
            (vec![0.0; COLS], top(2, &[5])),
            (row(3999), top(3, &[0, 3999])),
            (noise(COLS, 5), Want::All),
            (noise(COLS, 6), top(ROWS - 1, &[])),
            (row(400), sampler(Sampling::at_temperature(0.5)).want()),
            (vec![0.0; COLS], sampler(Sampling::at_temperature(0.5)).want()),
        ];
        let x: Vec<f32> = batch.iter().flat_map(|(x, _)| x.clone()).collect();
        let wants: Vec<&Want> = batch.iter().map(|(_, want)| want).collect();
        for form in 0..3 {
            for activations in [Activations::Auto, Activations::F32] {
                let kind = fit::Screen::ALL[form % 2];
                let screened = matrix(&numbers, form).screened(kind, None, &pool).unwrap();
                let found = screened.scores(with, &x, &wants, activations).unwrap().unwrap();
                let plain = matrix(&numbers, form);
                for (nth, ((x, want), found)) in batch.iter().zip(&found).enumerate() {
                    let all = plain.product(with, x, &RoundedRows::default(), activations);
                    let wanted = match want {
                        Want::Drawn(_) if found.clone().into_pairs().len() == 1 => {
                            let mut sampler = sampler(Sampling::at_temperature(0.5));
                            let token = sampler.pick(LogitRow::Dense(all.clone())).unwrap();
                            LogitRow::Sparse(vec![(token, all[token.0 as usize])])
                        }
                        want => pick(&all, want),
                    };
                    assert_eq!(bits(found), bits(&wanted), "row {nth} in form {form}, {activations:?}");
                }
                // The screen is asked for five, and gives up zeros of which two are to lead.
                let [positions, visited, given_up] = screened.screen.as_ref().unwrap().counted();
                assert_eq!((positions, given_up), (5, 1), "form {form}");
                assert!((6..100).contains(&visited), "{visited} in form {form}");
            }
        }
    }
}
