//! The highest scores over the vocabulary without reading every weight, and yet those of the exact head.
//!
//! A copy of the head in 8 or 4 bits is scored in whole, which bounds the exact score of every row from both sides
//! ([`bounds`]). Rows are then computed exactly in order of their upper bounds, until no other can be among the highest
//! ([`search`]), or be the one that noise draws ([`drawn`](mod@drawn)). Ties included, the result is what computing all rows gives, since a row's score is always that of the same
//! kernel. Where many rows are so near to each other that this would not pay, all of them are computed.

mod bounds;
mod candidates;
mod compact;
mod dithered;
mod drawn;
mod file;
mod search;
#[cfg(test)]
mod tests;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use corolla_checkpoint::Piece;
use corolla_domain::{
    fit,
    model::Want,
    ports::{FaultKind, PortError},
};

use self::{
    bounds::{Activations, Bounds, Facts, MOST_COLS},
    dithered::Dither,
    drawn::drawn,
    search::{Doubt, Found, RowBounds, highest},
};
pub(super) use self::{compact::Shape, file::ScreenFile, search::Scored};
use super::{
    kernels::{self, Kernels, Line, ROWS},
    pool::Pool,
};

/// Bytes of rows that are worth a task of their own.
const TASK_BYTES: usize = 24 << 10;
/// Numbers of rows that are worth a task when they are rounded.
const TASK_NUMBERS: usize = 1 << 16;
/// Of so many rows, at most one may be computed exactly: then the screen and these rows are still read in less time than
/// all of them.
const SPARSE: usize = 8;

/// A head in few bits, and what is known of its rows.
pub(super) struct Screen {
    shape: Shape,
    kept: Kept,
    /// Where it is kept, where it is.
    file: Option<ScreenFile>,
    /// Whether every exact score was within its bounds.
    trusted: AtomicBool,
    counts: Counts,
}

/// What a screen consists of.
struct Kept {
    /// Those of sixteen rows, then those of the next sixteen.
    lines: Lines,
    facts: Vec<Facts>,
    /// Random numbers of columns, where there are 4 bits.
    dither: Dither,
}

/// Lines in memory, or as they lie in a file.
enum Lines {
    Own(Vec<Line>),
    File(Piece),
}

impl Lines {
    fn all(&self) -> &[Line] {
        match self {
            Self::Own(lines) => lines,
            Self::File(piece) => kernels::lines(piece).unwrap_or_default(),
        }
    }
}

/// What was asked of a screen.
#[derive(Debug, Default)]
struct Counts {
    positions: AtomicU64,
    visited: AtomicU64,
    given_up: AtomicU64,
}

impl Screen {
    /// The screen in `file`, or a new one that is kept there. `widen(row, numbers)` writes a row of the head.
    ///
    /// # Errors
    /// `InvalidInput` where a number is not finite, `Unsupported` for rows that are too wide.
    pub(super) fn new(
        shape: Shape,
        file: Option<ScreenFile>,
        pool: &Pool,
        widen: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Self, PortError> {
        if !(1..=MOST_COLS).contains(&shape.cols) {
            let cols = shape.cols;
            let text = format!("a head with rows of {cols} numbers cannot be screened; set screen = \"off\"");
            return Err(PortError::new(FaultKind::Unsupported, text));
        }
        let screen = |kept, file| {
            let (trusted, counts) = (AtomicBool::new(true), Counts::default());
            Self { shape, kept, file, trusted, counts }
        };
        if let Some(kept) = file.as_ref().and_then(|file| file.read(shape)) {
            return Ok(screen(kept, file));
        }
        let kept = round(shape, pool, widen)?;
        let Some(file) = file else { return Ok(screen(kept, None)) };
        if let Err(error) = file.write(shape, &kept) {
            let file = file.path().display();
            tracing::warn!(%file, %error, "the screen cannot be kept, and is made again at every start");
        } else if let Some(kept) = file.read(shape) {
            // What is mapped can leave memory when others need it.
            return Ok(screen(kept, Some(file)));
        }
        Ok(screen(kept, None))
    }

    /// How many rows may be wanted so that the screen can pay.
    pub(super) fn most(&self) -> usize {
        if self.trusted.load(Relaxed) { self.shape.rows / SPARSE } else { 0 }
    }

    /// For each row of `x` and its want, the rows of the head with the highest scores, of equals those of lower number, or the
    /// one that is drawn; `None` where all rows have to be computed. `exact(nth, rows)` gives the scores of rows with row
    /// `nth` of `x`.
    ///
    /// # Errors
    /// `Internal` where an activation is not finite.
    pub(super) fn best(
        &self,
        (kernels, pool): (&Kernels, &Pool),
        x: &[f32],
        wants: &[&Want],
        exact: impl Fn(usize, &[u32]) -> Vec<f32>,
    ) -> Result<Vec<Option<Scored>>, PortError> {
        let activations: Option<Vec<Activations>> =
            x.chunks_exact(self.shape.cols).map(|x| self.activations(x)).collect();
        let activations =
            activations.ok_or_else(|| PortError::internal("the model's hidden states are not finite numbers"))?;
        let bounds = self.bounds((kernels, pool), &activations);
        let of_row = |(nth, want): (usize, &&Want)| {
            let bounds = RowBounds::new(&bounds, (nth, activations.len()), self.shape.rows);
            let exact = |rows: &[u32]| exact(nth, rows);
            match want {
                Want::Top { k, .. } => self.settle(highest(bounds, *k, self.most(), exact)),
                Want::Drawn(draw) => self.settle(drawn(bounds, draw, self.most(), exact)),
                Want::All => None,
            }
        };
        Ok(wants.iter().enumerate().map(of_row).collect())
    }

    /// Positions that were asked for, rows that were computed exactly, and positions with all of them.
    pub(super) fn counted(&self) -> [u64; 3] {
        let Counts { positions, visited, given_up } = &self.counts;
        [positions, visited, given_up].map(|count| count.load(Relaxed))
    }

    /// One row of activations as they are screened; `None` where they are not finite numbers.
    fn activations(&self, x: &[f32]) -> Option<Activations> {
        Activations::new(x, self.shape, &self.kept.dither)
    }

    /// Bounds of all rows: those of sixteen rows for each of `activations`, then those of the next sixteen.
    fn bounds(&self, (kernels, pool): (&Kernels, &Pool), activations: &[Activations]) -> Vec<Bounds> {
        let (many, lines, lines_block) = (activations.len(), self.kept.lines.all(), self.shape.lines());
        let facts = &self.kept.facts;
        let mut bounds = vec![Bounds::OPEN; facts.len() * many];
        let step = (TASK_BYTES / (lines_block * size_of::<Line>())).max(1);
        pool.each(bounds.chunks_mut((step * many).max(1)), |task, bounds| {
            for (nth, bounds) in bounds.chunks_exact_mut(many).enumerate() {
                let block = task * step + nth;
                let lines = &lines[block * lines_block..][..lines_block];
                for (bounds, x) in bounds.iter_mut().zip(activations) {
                    *bounds = match self.shape.form {
                        fit::Screen::Int8 => x.bounds(&(kernels.planes)(lines, &x.planes), &facts[block]),
                        fit::Screen::Int4 => {
                            x.chance_bounds(&(kernels.nibbles)(lines, &x.planes, &x.groups), &facts[block])
                        }
                    };
                }
            }
        });
        bounds
    }

    /// Counts what became of one row of activations.
    fn settle(&self, outcome: Result<Found, Doubt>) -> Option<Scored> {
        self.counts.positions.fetch_add(1, Relaxed);
        match outcome {
            Ok(Found { best, visited }) => {
                tracing::trace!(rows = self.shape.rows, visited, "the head was screened");
                self.counts.visited.fetch_add(visited as u64, Relaxed);
                return Some(best);
            }
            Err(Doubt::TooMany(candidates)) => {
                tracing::trace!(
                    rows = self.shape.rows,
                    candidates,
                    "too many rows are near the highest, all are computed"
                );
            }
            Err(Doubt::Foreign(row)) => {
                tracing::error!(row, "the screen is not one of this head, which is computed in whole from now on");
                if self.trusted.swap(false, Relaxed)
                    && let Some(file) = &self.file
                {
                    file.remove();
                }
            }
        }
        self.counts.given_up.fetch_add(1, Relaxed);
        None
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let [positions, visited, given_up] = self.counted();
        tracing::debug!(
            positions,
            visited,
            given_up,
            "rows of the head computed exactly, and positions with all of them"
        );
    }
}

/// Rounds all rows.
fn round(shape: Shape, pool: &Pool, widen: impl Fn(usize, &mut [f32]) + Sync) -> Result<Kept, PortError> {
    let Shape { rows, cols, form } = shape;
    tracing::info!(rows, cols, form = form.name(), "making a screen of the head");
    let dither = match form {
        fit::Screen::Int8 => Dither::default(),
        fit::Screen::Int4 => Dither::new(cols)?,
    };
    let mut lines = vec![compact::EMPTY; shape.blocks() * shape.lines()];
    let mut facts = vec![Facts::default(); shape.blocks()];
    let (odd, done) = (Mutex::new(None::<usize>), AtomicUsize::new(0));
    let step = (TASK_NUMBERS / (ROWS * cols)).max(1);
    let tasks = lines.chunks_mut(step * shape.lines()).zip(facts.chunks_mut(step));
    pool.each(tasks, |task, (lines, facts)| {
        let mut numbers = vec![0f32; cols];
        let many = facts.len();
        for (nth, (lines, facts)) in lines.chunks_exact_mut(shape.lines()).zip(facts).enumerate() {
            let from = (task * step + nth) * ROWS;
            for row in from..rows.min(from + ROWS) {
                widen(row, &mut numbers);
                let fine = match form {
                    fit::Screen::Int8 => compact::write(&numbers, row - from, lines, facts),
                    fit::Screen::Int4 => dithered::write(&numbers, row - from, lines, facts, &dither),
                };
                if !fine {
                    let mut odd = odd.lock().unwrap_or_else(PoisonError::into_inner);
                    *odd = Some(odd.map_or(row, |other| other.min(row)));
                }
            }
        }
        let before = done.fetch_add(many, Relaxed);
        let percent = |blocks: usize| blocks * 10 / shape.blocks() * 10;
        if percent(before) != percent(before + many) {
            tracing::debug!(percent = percent(before + many), "rows rounded");
        }
    });
    match odd.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(row) => {
            let text = format!("row {row} of the head has numbers that are not finite; fetch the model again");
            Err(PortError::invalid(text))
        }
        None => Ok(Kept { lines: Lines::Own(lines), facts, dither }),
    }
}
