//! Weights in libtorch, and their products.

use std::sync::{Mutex, PoisonError};

use corolla_checkpoint::{Stored, View};
use tch::{Kind, TchError, Tensor};

/// A tensor that never changes. libtorch allows reading it from any thread; its binding does not know.
pub(crate) struct Weight(Mutex<Tensor>);

impl Weight {
    pub(crate) fn new(tensor: Tensor) -> Self {
        Self(Mutex::new(tensor))
    }

    /// What `of` makes of it.
    pub(crate) fn with<T>(&self, of: impl FnOnce(&Tensor) -> T) -> T {
        of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `view` in f32.
pub(crate) fn widened(view: &View<'_>) -> Result<Tensor, TchError> {
    // `Tensors` has checked that the bytes are what the shape needs; libtorch would not.
    let shape: Vec<i64> = view.shape.iter().map(|side| *side as i64).collect();
    let kind = match view.stored {
        Stored::F32 => Kind::Float,
        Stored::F16 => Kind::Half,
        Stored::Bf16 => Kind::BFloat16,
        Stored::Quantised(_) => return Tensor::f_from_slice(&view.to_f32())?.f_reshape(shape),
    };
    Tensor::f_from_data_size(&view.bytes, &shape, kind)?.f_to_kind(Kind::Float)
}

/// `x` of shape `[m, cols]` times the transpose of `weight` of shape `[rows, cols]`, plus the bias: `[m, rows]`.
///
/// libtorch's `linear` multiplies f32 on one thread for one row, and without AVX-512 on processors that are not Intel's.
/// One row goes through the batched product instead, each thread with a part of the weight's rows; several go through
/// oneDNN.
pub(crate) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
    let (rows, cols) = weight.size2()?;
    if x.size()[0] > 1 {
        let x = x.f_contiguous()?.f_to_mkldnn(Kind::Float)?;
        return x.f_mkldnn_linear(weight, bias)?.f_internal_to_dense(None::<Kind>, false);
    }
    let parts = (1..=i64::from(tch::get_num_threads())).rev().find(|parts| rows % parts == 0).unwrap_or(1);
    let weight = weight.f_view([parts, rows / parts, cols])?.f_transpose(1, 2)?;
    let mut product =
        x.f_reshape([1, 1, cols])?.f_expand([parts, 1, cols], false)?.f_bmm(&weight)?.f_view([1, rows])?;
    match bias {
        Some(bias) => product.f_add_(bias),
        None => Ok(product),
    }
}
