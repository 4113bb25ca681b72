//! Products with a weight matrix as it stands, for gradients. Weights are widened some rows at a time, never all of them.

use candle_core::{DType, Error, Result, Tensor};

use super::{Data, Matrix};

/// Numbers that are widened at a time.
const PANEL: usize = 1 << 22;
/// Rows that are widened at a time at least.
const LEAST_ROWS: usize = 64;

impl Matrix {
    /// `y` of shape `[m, rows]` times the matrix of shape `[rows, cols]`: `[m, cols]`, in single precision.
    pub(in crate::device) fn product_gradient(&self, y: &Tensor) -> Result<Tensor> {
        if let Data::Dense(weight) = &self.data
            && weight.dtype() == DType::F32
        {
            return y.matmul(weight);
        }
        let rows = y.dim(1)?;
        let step = (PANEL / self.cols).max(LEAST_ROWS);
        let part = |from: usize| {
            let some = step.min(rows - from);
            y.narrow(1, from, some)?.contiguous()?.matmul(&self.widened(from, some, y)?)
        };
        let mut parts = (0..rows).step_by(step).map(part);
        let first = parts.next().ok_or_else(|| Error::Msg("a matrix without rows".to_owned()))??;
        parts.try_fold(first, |sum, part| sum + part?)
    }

    /// Rows `from..from + some` in single precision, on the device of `beside`.
    fn widened(&self, from: usize, some: usize, beside: &Tensor) -> Result<Tensor> {
        match &self.data {
            Data::Dense(weight) => weight.narrow(0, from, some)?.to_dtype(DType::F32),
            Data::Blocks { product: Some(product), .. } => {
                let ids = Tensor::arange(from as u32, (from + some) as u32, beside.device())?;
                product.embedding(&ids)?.to_dtype(DType::F32)
            }
            Data::Blocks { product: None, .. } => {
                candle_core::bail!("a matrix that was taken for its rows has no products")
            }
        }
    }
}
