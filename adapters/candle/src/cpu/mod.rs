//! Arithmetic on the processor: our own kernels, the `gemm` crate for many rows, and candle for quantised blocks.

mod attention;
mod kernels;
mod kv_cache;
mod matrix;
mod norm;

use corolla_checkpoint::{Heads, Stored, View};
use corolla_compute::{Arithmetic, Place, Use};
use corolla_domain::{
    fit::{self, Dtype},
    ports::PortError,
};
use rayon::ThreadPool;

use self::{attention::attend, kernels::Kernels, kv_cache::BlockCache, matrix::Matrix, norm::turn};
use crate::config::kept;

pub use kernels::kernel_sets;

/// Arithmetic with a pool of threads and one set of kernels.
pub(crate) struct CpuArithmetic {
    pool: ThreadPool,
    kernels: Kernels,
    dtype: Dtype,
}

/// Activations of shape `[rows, width]`.
pub(crate) struct Rows {
    numbers: Vec<f32>,
    width: usize,
}

/// What all blocks of a step share.
pub(crate) struct Frame {
    place: Place,
    /// Cosine and sine of each rotary pair, `[seq, dim / 2]`.
    turns: Option<Vec<(f32, f32)>>,
    slopes: Option<Vec<f32>>,
}

impl CpuArithmetic {
    /// `threads` threads, or one for each core.
    pub(crate) fn new(threads: Option<usize>, kernels: Option<fit::Kernels>, dtype: Dtype) -> Result<Self, PortError> {
        let kernels = kernels::kernels(kernels)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|nth| format!("candle-{nth}"))
            .build()
            .map_err(|e| PortError::internal("threads to compute on could not be started").with_source(e))?;
        tracing::debug!(kernels = kernels.name, threads = pool.current_num_threads(), "kernels chosen");
        Ok(Self { pool, kernels, dtype })
    }
}

impl Arithmetic for CpuArithmetic {
    type Rows = Rows;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Cache = BlockCache;
    type Frame = Frame;

    fn within(&self, job: &mut (dyn FnMut() + Send)) {
        self.pool.install(job);
    }

    fn dtype(&self, stored: Stored) -> String {
        kept(self.dtype, stored).name()
    }

    fn matrix(&self, view: &View<'_>, _: Use) -> Result<Matrix, PortError> {
        Matrix::new(view, kept(self.dtype, view.stored))
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Vec<f32>, PortError> {
        Ok(numbers)
    }

    fn rows(&self, numbers: Vec<f32>, width: usize) -> Result<Rows, PortError> {
        Ok(Rows { numbers, width })
    }

    fn numbers(&self, rows: Rows) -> Result<Vec<f32>, PortError> {
        Ok(rows.numbers)
    }

    fn select(&self, matrix: &Matrix, ids: &[u32]) -> Result<Rows, PortError> {
        let numbers = matrix.select(&self.kernels, ids)?;
        Ok(Rows { width: numbers.len() / ids.len(), numbers })
    }

    fn product(&self, x: &Rows, matrix: &Matrix, bias: Option<&Vec<f32>>) -> Result<Rows, PortError> {
        let mut numbers = matrix.product(&self.kernels, &x.numbers)?;
        let width = numbers.len() / (x.numbers.len() / x.width);
        if let Some(bias) = bias {
            numbers.chunks_exact_mut(width).for_each(|row| add(row, bias));
        }
        Ok(Rows { numbers, width })
    }

    fn add(&self, mut x: Rows, y: &Rows) -> Result<Rows, PortError> {
        add(&mut x.numbers, &y.numbers);
        Ok(x)
    }

    fn columns(&self, x: &Rows, start: usize, end: usize) -> Result<Rows, PortError> {
        let numbers = x.numbers.chunks_exact(x.width).flat_map(|row| &row[start..end]).copied().collect();
        Ok(Rows { numbers, width: end - start })
    }

    fn layer_norm(&self, x: &Rows, scale: &Vec<f32>, shift: &Vec<f32>, eps: f32) -> Result<Rows, PortError> {
        Ok(Rows { numbers: norm::layer_norm(&x.numbers, scale, shift, eps), width: x.width })
    }

    fn rms_norm(&self, x: &Rows, scale: &Vec<f32>, eps: f32) -> Result<Rows, PortError> {
        Ok(Rows { numbers: norm::rms_norm(&x.numbers, scale, eps), width: x.width })
    }

    fn gelu(&self, mut x: Rows) -> Result<Rows, PortError> {
        x.numbers.iter_mut().for_each(|v| *v = norm::gelu(*v));
        Ok(x)
    }

    fn gated(&self, mut gate: Rows, up: &Rows) -> Result<Rows, PortError> {
        gate.numbers.iter_mut().zip(&up.numbers).for_each(|(gate, up)| *gate = norm::silu(*gate) * up);
        Ok(gate)
    }

    fn cache(&self, batch: usize, length: usize, heads: Heads) -> Result<BlockCache, PortError> {
        Ok(BlockCache::new(batch, length, heads.kv, heads.dim))
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
        let Place { seq, position, .. } = frame.place;
        if let Some(turns) = &frame.turns {
            for rows in [&mut queries, &mut keys] {
                for (at, row) in rows.numbers.chunks_exact_mut(rows.width).enumerate() {
                    let pairs = heads.dim / 2;
                    turn(row, heads.dim, &turns[at % seq * pairs..][..pairs]);
                }
            }
        }
        let new = keys.numbers.chunks_exact(keys.width).zip(values.numbers.chunks_exact(values.width));
        for (at, (keys, values)) in new.enumerate() {
            cache.write(at / seq, position + at % seq, keys, values);
        }
        let slopes = frame.slopes.as_deref();
        let numbers = attend(&self.kernels, &queries.numbers, cache, frame.place, heads, slopes);
        Ok(Rows { numbers, width: queries.width })
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
