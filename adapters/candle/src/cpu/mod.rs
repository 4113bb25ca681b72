//! Arithmetic on the processor: our own threads and kernels, and the `gemm` crate for many rows of weights that are not
//! quantised.

mod attention;
pub(crate) mod buffers;
mod kernels;
mod kv_cache;
mod matrix;
mod norm;
mod pool;
mod screen;

use std::mem;

use corolla_checkpoint::{Heads, Stored, View};
use corolla_compute::{Arithmetic, Place, Use};
use corolla_domain::{
    fit::{self, Dtype, KvType},
    model::{LogitRow, Want},
    ports::PortError,
};

use self::{
    attention::attend,
    kernels::{Kernels, RoundedRows},
    kv_cache::{BlockCache, Layout},
    matrix::Matrix,
    norm::turn,
    pool::Pool,
    screen::ScreenFile,
};
use crate::config::{Activations, Cpu, kept};

pub use kernels::kernel_sets;

/// Numbers that one task takes of what is done to each: a guess, some microseconds.
const PIECE: usize = 1 << 13;
/// About how many multiplications a number of an activation function costs.
const CURVE: usize = 8;

/// Arithmetic with a pool of threads and one set of kernels.
pub(crate) struct CpuArithmetic {
    pool: Pool,
    kernels: Kernels,
    dtype: Dtype,
    activations: Activations,
    screen: Option<fit::Screen>,
    kv_type: KvType,
}

/// Activations of shape `[rows, width]`.
pub(crate) struct Rows {
    numbers: Vec<f32>,
    width: usize,
    /// The same in 8 bits, for all products that are taken of them.
    rounded: RoundedRows,
}

impl Rows {
    fn new(numbers: Vec<f32>, width: usize) -> Self {
        Self { numbers, width, rounded: RoundedRows::default() }
    }

    /// The numbers, to become other rows.
    fn into_numbers(mut self) -> Vec<f32> {
        mem::take(&mut self.numbers)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        buffers::free(mem::take(&mut self.numbers));
    }
}

/// What all blocks of a step share.
pub(crate) struct Frame {
    place: Place,
    /// Cosine and sine of each rotary pair, `[seq, dim / 2]`.
    turns: Option<Vec<(f32, f32)>>,
    slopes: Option<Vec<f32>>,
}

impl CpuArithmetic {
    /// Everything as `cpu` says; `threads` left open is one for each core.
    pub(crate) fn new(cpu: Cpu) -> Result<Self, PortError> {
        let Cpu { dtype, kernels, activations, screen, kv_type, threads } = cpu;
        let kernels = kernels::kernels(kernels)?;
        let pool = Pool::new(threads)?;
        tracing::debug!(kernels = kernels.name, threads = pool.threads(), "kernels chosen");
        // Who asks for single precision wants nothing rounded.
        let activations = if dtype == Dtype::F32 { Activations::F32 } else { activations };
        Ok(Self { pool, kernels, dtype, activations, screen, kv_type })
    }

    /// Calls `work` with pieces of `x` and the same pieces of `y`, on all threads where that pays; a number costs as much as
    /// `steps` multiplications.
    fn pairwise(&self, steps: usize, x: &mut [f32], y: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
        let size = steps * x.len();
        self.pool.each_of(size, x.chunks_mut(PIECE).zip(y.chunks(PIECE)), |_, (x, y)| work(x, y));
    }

    /// The form in which a matrix that a file has as `stored` is kept. In single precision, numbers of 16 bits are widened on
    /// their way from memory: the same products, to the bit, as if they were kept so, from half the bytes.
    fn kept(&self, stored: Stored) -> Stored {
        kept(self.dtype.kept(&stored.into(), true), stored)
    }

    /// The matrix, where it lies in the file if it is used as it is there.
    fn take(&self, view: &View<'_>) -> Result<Matrix, PortError> {
        let kept = self.kept(view.stored);
        let in_place = if kept == view.stored { Matrix::in_place(view) } else { None };
        in_place.map_or_else(|| Matrix::new(view, kept, &self.pool), Ok)
    }
}

impl Arithmetic for CpuArithmetic {
    type Rows = Rows;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Cache = BlockCache;
    type Frame = Frame;

    fn dtype(&self, stored: Stored) -> String {
        kept(self.dtype, stored).name()
    }

    fn matrix(&self, view: &View<'_>, of_use: Use) -> Result<Matrix, PortError> {
        let matrix = self.take(view)?;
        // Of embeddings few rows are ever read.
        if of_use != Use::Rows {
            matrix.populate(&self.pool);
        }
        Ok(matrix)
    }

    fn head(&self, view: &View<'_>, of_use: Use) -> Result<Matrix, PortError> {
        let kept = self.kept(view.stored);
        let Some(screen) = self.screen else { return self.matrix(view, of_use) };
        if matches!(kept, Stored::Quantised(_)) {
            tracing::info!(form = kept.name(), "the head is quantised already, and gets no screen");
            return self.matrix(view, of_use);
        }
        // Of the rows themselves few are read from then on: where the file has them as they are used, they stay there.
        let matrix = self.take(view)?;
        if kept == view.stored && !matrix.is_in_file() {
            let file = view.file.display();
            tracing::warn!(%file, "the head cannot be used where it lies in the file, and takes memory beside its screen");
        }
        let unkept = |error| tracing::warn!(%error, "the screen of the head will not be kept");
        let file = ScreenFile::beside(view, &kept.name(), screen).map_err(unkept).ok();
        matrix.screened(screen, file, &self.pool)
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Vec<f32>, PortError> {
        Ok(numbers)
    }

    fn rows(&self, numbers: Vec<f32>, width: usize) -> Result<Rows, PortError> {
        Ok(Rows::new(numbers, width))
    }

    fn numbers(&self, rows: Rows) -> Result<Vec<f32>, PortError> {
        Ok(rows.into_numbers())
    }

    fn select(&self, matrix: &Matrix, ids: &[u32]) -> Result<Rows, PortError> {
        let numbers = matrix.select(ids);
        let width = numbers.len() / ids.len();
        Ok(Rows::new(numbers, width))
    }

    fn product(&self, x: &Rows, matrix: &Matrix, bias: Option<&Vec<f32>>) -> Result<Rows, PortError> {
        let mut numbers = matrix.product((&self.kernels, &self.pool), &x.numbers, &x.rounded, self.activations);
        let width = numbers.len() / (x.numbers.len() / x.width);
        if let Some(bias) = bias {
            self.pool.each_of(numbers.len(), numbers.chunks_mut(piece(width)), |_, rows| {
                rows.chunks_exact_mut(width).for_each(|row| add(row, bias));
            });
        }
        Ok(Rows::new(numbers, width))
    }

    fn screened_scores(&self, x: &Rows, head: &Matrix, wants: &[&Want]) -> Result<Option<Vec<LogitRow>>, PortError> {
        head.scores((&self.kernels, &self.pool), &x.numbers, wants, self.activations)
    }

    fn product_gradient(&self, y: &Rows, matrix: &Matrix) -> Result<Rows, PortError> {
        let numbers = matrix.product_gradient((&self.kernels, &self.pool), &y.numbers, y.width);
        let width = numbers.len() / (y.numbers.len() / y.width);
        Ok(Rows::new(numbers, width))
    }

    fn add(&self, mut x: Rows, y: &Rows) -> Result<Rows, PortError> {
        self.pairwise(1, &mut x.numbers, &y.numbers, add);
        let width = x.width;
        Ok(Rows::new(x.into_numbers(), width))
    }

    fn columns(&self, x: &Rows, start: usize, end: usize) -> Result<Rows, PortError> {
        let width = end - start;
        let mut numbers = buffers::place(x.numbers.len() / x.width * width);
        let (from, many) = (x.width, piece(x.width) / x.width);
        let pieces = x.numbers.chunks(many * from).zip(numbers.chunks_mut(many * width));
        self.pool.each_of(x.numbers.len(), pieces, |_, (x, parts)| {
            let rows = x.chunks_exact(from).zip(parts.chunks_exact_mut(width));
            rows.for_each(|(row, part)| part.copy_from_slice(&row[start..end]));
        });
        Ok(Rows::new(numbers, width))
    }

    fn part(&self, x: &Rows, start: usize, end: usize) -> Result<Rows, PortError> {
        let mut numbers = buffers::place((end - start) * x.width);
        numbers.copy_from_slice(&x.numbers[start * x.width..end * x.width]);
        Ok(Rows::new(numbers, x.width))
    }

    fn join(&self, parts: Vec<Rows>) -> Result<Rows, PortError> {
        let width = parts[0].width;
        let mut numbers = buffers::place(parts.iter().map(|part| part.numbers.len()).sum());
        let mut rest = &mut numbers[..];
        for part in &parts {
            let (own, others) = rest.split_at_mut(part.numbers.len());
            own.copy_from_slice(&part.numbers);
            rest = others;
        }
        Ok(Rows::new(numbers, width))
    }

    fn layer_norm(&self, x: &Rows, scale: &Vec<f32>, shift: &Vec<f32>, eps: f32) -> Result<Rows, PortError> {
        Ok(Rows::new(norm::layer_norm(&self.pool, &x.numbers, scale, shift, eps), x.width))
    }

    fn rms_norm(&self, x: &Rows, scale: &Vec<f32>, eps: f32) -> Result<Rows, PortError> {
        Ok(Rows::new(norm::rms_norm(&self.pool, &x.numbers, scale, eps), x.width))
    }

    fn gelu(&self, mut x: Rows) -> Result<Rows, PortError> {
        self.pool.each_of(CURVE * x.numbers.len(), x.numbers.chunks_mut(PIECE), |_, x| (self.kernels.gelu)(x));
        let width = x.width;
        Ok(Rows::new(x.into_numbers(), width))
    }

    fn gated(&self, mut gate: Rows, up: &Rows) -> Result<Rows, PortError> {
        self.pairwise(CURVE, &mut gate.numbers, &up.numbers, self.kernels.gate);
        let width = gate.width;
        Ok(Rows::new(gate.into_numbers(), width))
    }

    fn position_bytes(&self, heads: Heads) -> usize {
        2 * heads.kv * self.kv_type.vector_bytes(heads.dim)
    }

    fn cache(&self, batch: usize, _: usize, heads: Heads) -> Result<BlockCache, PortError> {
        Ok(BlockCache::new(batch, Layout { heads: heads.kv, dim: heads.dim, kv_type: self.kv_type }))
    }

    fn reorder(&self, cache: &mut BlockCache, rows: &[usize], _: usize) -> Result<(), PortError> {
        cache.reorder(rows);
        Ok(())
    }

    fn fork(&self, cache: &BlockCache, to: usize, _: usize) -> Result<BlockCache, PortError> {
        Ok(cache.fork(to))
    }

    fn frame(
        &self,
        place: Place,
        turns: Option<Vec<(f32, f32)>>,
        slopes: Option<&Vec<f32>>,
    ) -> Result<Frame, PortError> {
        Ok(Frame { place, turns, slopes: slopes.cloned() })
    }

    fn attend(
        &self,
        [mut queries, mut keys, values]: [Rows; 3],
        cache: &mut BlockCache,
        frame: &Frame,
        heads: Heads,
    ) -> Result<Rows, PortError> {
        let Place { batch, seq, position } = frame.place;
        if let Some(turns) = &frame.turns {
            let pairs = heads.dim / 2;
            for rows in [&mut queries, &mut keys] {
                let (size, width, piece) = (2 * rows.numbers.len(), rows.width, piece(rows.width));
                self.pool.each_of(size, rows.numbers.chunks_mut(piece), |nth, piece_of_rows| {
                    for (at, row) in (nth * piece / width..).zip(piece_of_rows.chunks_exact_mut(width)) {
                        turn(row, heads.dim, &turns[at % seq * pairs..][..pairs]);
                    }
                });
            }
        }
        let mut new = keys.numbers.chunks_exact(keys.width).zip(values.numbers.chunks_exact(values.width));
        for row in 0..batch {
            cache.write(row, position, new.by_ref().take(seq))?;
        }
        let slopes = frame.slopes.as_deref();
        let numbers = attend((&self.kernels, &self.pool), &queries.numbers, cache, frame.place, heads, slopes);
        Ok(Rows::new(numbers, queries.width))
    }
}

/// The same in whole rows of `width` numbers.
fn piece(width: usize) -> usize {
    (PIECE / width).max(1) * width
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
