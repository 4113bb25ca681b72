//! The row that a draw takes, found by computing few rows exactly.
//!
//! A row's key rises with its score, so bounds of scores are bounds of keys, and the highest key is found as the highest
//! score is. `min_p` asks for the highest score besides, which is found first.
//!
//! `top_p` keeps the rows before which there is less than a share of the probability. Whether it keeps the row of the highest
//! key is often certain though the sums are known from bounds alone; where it is not, rows are computed that the bounds say
//! least of. A row that is not kept takes along all that come after it, and the highest key of the others is next.

use std::collections::HashMap;

use corolla_domain::model::{Draw, Noise, TokenId};

use super::{
    candidates::Candidates,
    search::{Doubt, Found, RowBounds, TRIED},
};

/// More than the relative error of a sum of weights over a vocabulary.
const CRUMB: f64 = 1e-9;
/// Rows that are computed at first where sums are not known well enough.
const FIRST: usize = 64;

/// The row that `draw` takes. Gives up where more than `limit` rows might be, or have to be computed.
///
/// `scores` gives exact ones, without penalties; so is that of the row found.
pub(super) fn drawn(
    bounds: RowBounds<'_>,
    draw: &Draw,
    limit: usize,
    scores: impl Fn(&[u32]) -> Vec<f32>,
) -> Result<Found, Doubt> {
    let mut search = Search {
        lower: bounds.sides(|bounds| &bounds.lower).collect(),
        upper: bounds.sides(|bounds| &bounds.upper).collect(),
        words: Vec::new(),
        top: f32::NEG_INFINITY,
        weights: Vec::new(),
        computed: HashMap::new(),
        bounds,
        draw,
        limit,
        scores,
    };
    let row = match search.run() {
        Ok(row) | Err(End::Odd(row)) => row,
        Err(End::Doubt(doubt)) => return Err(doubt),
    };
    let score = search.computed.get(&row).copied().ok_or(Doubt::TooMany(0))?;
    Ok(Found { best: vec![(row, score)], visited: search.computed.len() })
}

/// Why a search ends early.
enum End {
    /// Nothing can be found.
    Doubt(Doubt),
    /// The score of this row is no number, or infinite: whoever gets it says so.
    Odd(u32),
}

/// What is highest for the row that is looked for.
#[derive(Clone, Copy)]
enum By {
    Score,
    Key,
}

struct Search<'a, F> {
    bounds: RowBounds<'a>,
    draw: &'a Draw,
    limit: usize,
    scores: F,
    /// Penalised scores lie between these; where a row was computed, both are its score.
    lower: Vec<f32>,
    upper: Vec<f32>,
    /// What noise is made of.
    words: Vec<u64>,
    /// The highest score, where it was looked for.
    top: f32,
    /// Between which weights those of rows lie; 0 where `min_p` does not keep them. Empty without `top_p`.
    weights: Vec<[f64; 2]>,
    /// Rows that were computed, with their scores.
    computed: HashMap<u32, f32>,
}

impl<F: Fn(&[u32]) -> Vec<f32>> Search<'_, F> {
    fn run(&mut self) -> Result<u32, End> {
        let (draw, rows) = (self.draw, self.lower.len() as u32);
        let seen: Vec<u32> = draw.penalties.named().into_iter().map(|token| token.0).collect();
        self.compute(&seen)?;
        let mut words = draw.noise.words();
        self.words = (0..rows).map(|row| words.of(row)).collect();
        if draw.min_p.is_none() && draw.share().is_none() {
            return self.highest(By::Key, |_, _| true);
        }
        let highest = self.highest(By::Score, |_, _| true)?;
        let top = self.lower[highest as usize];
        self.top = top;
        if top == f32::NEG_INFINITY {
            return Ok(highest);
        }
        let Some(share) = draw.share() else { return self.highest(By::Key, |_, score| draw.keeps(score, top)) };
        self.weights = (0..rows).map(|row| self.weight(row)).collect();
        let mut end = None;
        loop {
            let kept = |row, score| draw.keeps(score, top) && end.is_none_or(|end| comes_before((row, score), end));
            let row = self.highest(By::Key, kept)?;
            if self.is_within(row, share)? {
                return Ok(row);
            }
            end = Some((row, self.lower[row as usize]));
        }
    }

    /// Of the rows that `kept` keeps, the one that is highest, and of equals the first. Where `kept` keeps a score of a row,
    /// it keeps higher ones, and it keeps some row.
    fn highest(&mut self, by: By, kept: impl Fn(u32, f32) -> bool) -> Result<u32, End> {
        let (mut least, mut candidates) = (f64::NEG_INFINITY, Vec::new());
        for (row, (lower, upper)) in (0u32..).zip(self.lower.iter().zip(&self.upper)) {
            if self.ceiling(by, row, *upper) < least || !kept(row, *upper) {
                continue;
            }
            let most = self.height(by, row, *upper);
            if most >= least {
                candidates.push((row, most));
                if kept(row, *lower) {
                    least = least.max(self.height(by, row, *lower));
                }
            }
        }
        let mut candidates = Candidates::new(candidates, 1);
        let (mut best, mut tried) = (None::<(f64, u32)>, 0);
        loop {
            // A row that can be as high as the best one still counts: its number may be lower.
            candidates.keep(best.map_or(least, |(highest, _)| highest));
            let unknown = candidates.left().filter(|row| !self.is_computed(*row)).count();
            if tried >= TRIED && self.computed.len() + unknown > self.limit {
                return Err(End::Doubt(Doubt::TooMany(self.computed.len() + unknown)));
            }
            let some = candidates.take();
            if some.is_empty() {
                return best.map(|(_, row)| row).ok_or(End::Doubt(Doubt::TooMany(tried)));
            }
            self.compute(&some)?;
            tried += some.len();
            for row in some {
                let score = self.lower[row as usize];
                let height = self.height(by, row, score);
                let higher = |(highest, first): (f64, u32)| height > highest || height == highest && row < first;
                if kept(row, score) && best.is_none_or(higher) {
                    best = Some((height, row));
                }
            }
        }
    }

    fn height(&self, by: By, row: u32, score: f32) -> f64 {
        match by {
            By::Score => f64::from(score),
            By::Key => self.draw.key(score, Noise::gumbel(self.words[row as usize])),
        }
    }

    /// At least [`Search::height`], for less.
    fn ceiling(&self, by: By, row: u32, score: f32) -> f64 {
        match by {
            By::Score => f64::from(score),
            By::Key => self.draw.key(score, Noise::at_most(self.words[row as usize])),
        }
    }

    /// Whether the rows before this one, which was computed, have less than the share of all weights.
    fn is_within(&mut self, row: u32, share: f64) -> Result<bool, End> {
        let mut step = FIRST;
        loop {
            let (before, behind) = self.sums(row);
            // The difference of the sides rises with the weights before the row, and falls with the others.
            if before[1] * (1.0 + CRUMB) < share * (before[1] + behind[0]) * (1.0 - CRUMB) {
                return Ok(true);
            }
            if before[0] * (1.0 - CRUMB) > share * (before[0] + behind[1]) * (1.0 + CRUMB) {
                return Ok(false);
            }
            let open = (0..self.lower.len() as u32).map(|other| (self.open(other, row), other));
            let mut open: Vec<(f64, u32)> = open.filter(|(weight, _)| *weight > 0.0).collect();
            if open.is_empty() {
                // So near to the share that rounding decides: that of all rows.
                return Err(End::Doubt(Doubt::TooMany(self.lower.len())));
            }
            if step < open.len() {
                open.select_nth_unstable_by(step, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                open.truncate(step);
            }
            let open: Vec<u32> = open.into_iter().map(|(_, row)| row).collect();
            self.compute(&open)?;
            step *= 2;
        }
    }

    /// Least and most weight of the rows before that one, and so of it and those after it.
    fn sums(&self, row: u32) -> ([f64; 2], [f64; 2]) {
        let own = self.weights[row as usize][1];
        let (mut before, mut behind) = ([0.0; 2], [0.0; 2]);
        for (other, weight) in (0u32..).zip(&self.weights) {
            let sums = match self.precedes(other, row) {
                Some(true) => &mut before,
                Some(false) => &mut behind,
                None => {
                    before[1] += weight[1];
                    behind[1] += weight[1].min(own);
                    continue;
                }
            };
            sums[0] += weight[0];
            sums[1] += weight[1];
        }
        (before, behind)
    }

    /// Whether a row comes before that one, which was computed; `None` where its bounds do not say.
    fn precedes(&self, other: u32, row: u32) -> Option<bool> {
        let than = (row, self.lower[row as usize]);
        let [least, most] =
            [&self.lower, &self.upper].map(|bounds| comes_before((other, bounds[other as usize]), than));
        (least == most).then_some(least)
    }

    /// How much of a row's weight, or of its place beside that row, is not known.
    fn open(&self, other: u32, row: u32) -> f64 {
        let [least, most] = self.weights[other as usize];
        if self.precedes(other, row).is_none() { most } else { most - least }
    }

    /// Between which weights that of a row lies.
    fn weight(&self, row: u32) -> [f64; 2] {
        let top = self.top;
        let of = |bound: f32| if self.draw.keeps(bound, top) { self.draw.weight(bound.min(top), top) } else { 0.0 };
        [of(self.lower[row as usize]), of(self.upper[row as usize])]
    }

    fn is_computed(&self, row: u32) -> bool {
        // Bounds are never so near to each other.
        self.lower[row as usize] == self.upper[row as usize]
    }

    /// Computes those of `rows` that were not.
    fn compute(&mut self, rows: &[u32]) -> Result<(), End> {
        let rows: Vec<u32> = rows.iter().copied().filter(|row| !self.is_computed(*row)).collect();
        if self.computed.len() + rows.len() > self.limit {
            return Err(End::Doubt(Doubt::TooMany(self.computed.len() + rows.len())));
        }
        for (row, score) in rows.iter().zip((self.scores)(&rows)) {
            let (lower, upper) = self.bounds.of(*row);
            if score < lower || score > upper {
                return Err(End::Doubt(Doubt::Foreign(*row)));
            }
            self.computed.insert(*row, score);
            if score.is_nan() || score == f32::INFINITY {
                return Err(End::Odd(*row));
            }
            let score = self.draw.penalties.penalised(TokenId(*row), score);
            (self.lower[*row as usize], self.upper[*row as usize]) = (score, score);
            if !self.weights.is_empty() {
                self.weights[*row as usize] = self.weight(*row);
            }
        }
        Ok(())
    }
}

/// Whether a row with that score comes before another one, as probable rows come first.
fn comes_before((row, score): (u32, f32), (other, than): (u32, f32)) -> bool {
    than.total_cmp(&score).then(row.cmp(&other)).is_lt()
}
