//! What a library must be able to do so that the families run on it.

use corolla_checkpoint::{Heads, Stored, View};
use corolla_domain::{
    model::{LogitRow, Want},
    ports::{FaultKind, PortError},
};

/// Positions of a row that caches share, or do not, as one: see [`Arithmetic::fork`].
pub const PAGE: usize = 64;

/// Which positions a step adds to which session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Rows side by side.
    pub batch: usize,
    /// New positions of each row.
    pub seq: usize,
    /// Positions before them.
    pub position: usize,
}

/// What a matrix will be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Products.
    Product,
    /// Rows by their numbers.
    Rows,
    /// Both: embeddings that score the vocabulary too.
    Both,
}

/// The operations of one library on one device. One thread uses it, the one that made it; what it makes stays there.
///
/// Activations are f32 on the outside; inside, an implementation keeps them as it likes. Callers have checked shapes
/// and ids. An operation that fails (no memory on the device) is an error, never a panic.
pub trait Arithmetic: Send + Sync + 'static {
    /// Activations of shape `[rows, width]`.
    type Rows: Send;
    /// Weights of shape `[rows, cols]`.
    type Matrix: Send + Sync;
    /// Weights of a norm, a bias, or the slopes of ALiBi.
    type Vector: Send + Sync;
    /// Keys and values of one session in one block.
    type Cache: Send;
    /// What all blocks of one step share: angles of rotary positions, biases and masks of attention.
    type Frame;

    /// Runs `job` in the surroundings the library wants: its threads, no recording of gradients. Everything below is
    /// called within.
    fn within(&self, job: &mut (dyn FnMut() + Send)) {
        job();
    }

    /// What weights are computed with where the file stores them as `stored`, e.g. `bf16`.
    fn dtype(&self, stored: Stored) -> String;

    /// Takes a matrix.
    ///
    /// # Errors
    /// `Unsupported` for a stored form that this arithmetic does not take, `Capacity` where it does not fit the device.
    fn matrix(&self, view: &View<'_>, of_use: Use) -> Result<Self::Matrix, PortError>;

    /// Takes the matrix that scores the vocabulary.
    ///
    /// # Errors
    /// See [`Arithmetic::matrix`].
    fn head(&self, view: &View<'_>, of_use: Use) -> Result<Self::Matrix, PortError> {
        self.matrix(view, of_use)
    }

    /// Takes a vector.
    ///
    /// # Errors
    /// `Capacity` where it does not fit the device.
    fn vector(&self, numbers: Vec<f32>) -> Result<Self::Vector, PortError>;

    /// Activations from host memory; `width` divides `numbers`.
    ///
    /// # Errors
    /// Whatever the library says; so for all that follow.
    fn rows(&self, numbers: Vec<f32>, width: usize) -> Result<Self::Rows, PortError>;

    /// Activations to host memory.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn numbers(&self, rows: Self::Rows) -> Result<Vec<f32>, PortError>;

    /// Rows `ids` of a matrix that was taken for [`Use::Rows`] or [`Use::Both`].
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn select(&self, matrix: &Self::Matrix, ids: &[u32]) -> Result<Self::Rows, PortError>;

    /// `x` of shape `[m, cols]` times the transpose of `matrix`, plus the bias: `[m, rows]`.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn product(
        &self,
        x: &Self::Rows,
        matrix: &Self::Matrix,
        bias: Option<&Self::Vector>,
    ) -> Result<Self::Rows, PortError>;

    /// What each of `wants` names of the products of one row of `x` with `head`, which [`Arithmetic::head`] took, where
    /// that can be had without computing all of them: the same rows, and exact scores. `None` where it cannot; then they are
    /// computed and [picked](crate::pick) from.
    ///
    /// # Errors
    /// `Internal` where `x` is not finite, and see [`Arithmetic::rows`].
    fn screened_scores(
        &self,
        x: &Self::Rows,
        head: &Self::Matrix,
        wants: &[&Want],
    ) -> Result<Option<Vec<LogitRow>>, PortError> {
        let _ = (x, head, wants);
        Ok(None)
    }

    /// What becomes of a gradient on its way back through [`product`](Self::product): `y` of shape `[m, rows]` times
    /// `matrix` as it stands, `[m, cols]`. The matrix was taken for [`Use::Product`]; its numbers are taken as they are,
    /// without rounding `y`.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn product_gradient(&self, y: &Self::Rows, matrix: &Self::Matrix) -> Result<Self::Rows, PortError>;

    /// `x + y`.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn add(&self, x: Self::Rows, y: &Self::Rows) -> Result<Self::Rows, PortError>;

    /// Columns `start..end` of every row.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn columns(&self, x: &Self::Rows, start: usize, end: usize) -> Result<Self::Rows, PortError>;

    /// Rows `start..end`.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn part(&self, x: &Self::Rows, start: usize, end: usize) -> Result<Self::Rows, PortError>;

    /// The rows of all `parts`, one after the other. There is at least one, and all are of one width.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn join(&self, parts: Vec<Self::Rows>) -> Result<Self::Rows, PortError>;

    /// Each row with mean 0 and variance 1, then scaled and shifted.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn layer_norm(
        &self,
        x: &Self::Rows,
        scale: &Self::Vector,
        shift: &Self::Vector,
        eps: f32,
    ) -> Result<Self::Rows, PortError>;

    /// Each row divided by its root mean square, then scaled.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn rms_norm(&self, x: &Self::Rows, scale: &Self::Vector, eps: f32) -> Result<Self::Rows, PortError>;

    /// The tanh form of GELU.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn gelu(&self, x: Self::Rows) -> Result<Self::Rows, PortError>;

    /// `silu(gate) * up`, number by number.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn gated(&self, gate: Self::Rows, up: &Self::Rows) -> Result<Self::Rows, PortError>;

    /// Bytes of keys and values that a position of a row takes in one block.
    fn position_bytes(&self, heads: Heads) -> usize {
        2 * heads.kv * heads.dim * size_of::<f32>()
    }

    /// An empty cache with room for `length` positions of `batch` rows, in one block.
    ///
    /// # Errors
    /// `Capacity` where it does not fit the device.
    fn cache(&self, batch: usize, length: usize, heads: Heads) -> Result<Self::Cache, PortError>;

    /// Puts the rows of a cache in another order: row `i` becomes what row `rows[i]` was, as far as `length` positions.
    /// Each of `rows` is one that the cache has, and there are as many.
    ///
    /// # Errors
    /// `Unsupported` where the library cannot do it, and see [`Arithmetic::rows`].
    fn reorder(&self, cache: &mut Self::Cache, rows: &[usize], length: usize) -> Result<(), PortError> {
        let _ = (cache, rows, length);
        let text = "rows of a cache cannot be put in another order with this backend";
        Err(PortError::new(FaultKind::Unsupported, text))
    }

    /// Another cache with room for `length` positions, that begins with the first `to` of this one. Pages of [`PAGE`]
    /// positions, of each row, that are in `to` from end to end take no memory until one of the caches writes in them.
    ///
    /// # Errors
    /// `Unsupported` where the library cannot do it, and see [`Arithmetic::cache`].
    fn fork(&self, cache: &Self::Cache, to: usize, length: usize) -> Result<Self::Cache, PortError> {
        let _ = (cache, to, length);
        Err(PortError::new(FaultKind::Unsupported, "caches cannot share positions with this backend"))
    }

    /// What the blocks of a step at `place` share. `turns` are cosine and sine of each rotary pair, `[seq, dim / 2]`;
    /// `slopes` those of ALiBi, one a head that asks. A model has one of both.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn frame(
        &self,
        place: Place,
        turns: Option<Vec<(f32, f32)>>,
        slopes: Option<&Self::Vector>,
    ) -> Result<Self::Frame, PortError>;

    /// Attention of the new positions. `qkv` are queries `[batch * seq, query * dim]`, keys and values
    /// `[batch * seq, kv * dim]`. Queries and keys turn (where the frame says so), keys and values go into the cache at
    /// the frame's place, over whatever stands there and after it, and each query attends to everything up to its own
    /// position, scaled by `1 / sqrt(dim)`, less slope times distance. The result has the shape of the queries.
    ///
    /// # Errors
    /// See [`Arithmetic::rows`].
    fn attend(
        &self,
        qkv: [Self::Rows; 3],
        cache: &mut Self::Cache,
        frame: &Self::Frame,
        heads: Heads,
    ) -> Result<Self::Rows, PortError>;
}
