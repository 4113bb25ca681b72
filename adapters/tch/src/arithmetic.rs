//! The operations of the families in libtorch.

use corolla_checkpoint::{Heads, Stored, View};
use corolla_compute::{Arithmetic, Place, Use};
use corolla_domain::ports::PortError;
use tch::{TchError, Tensor};

use crate::{
    attention::{Cache, Frame, attend},
    fault::library,
    matrix::{Weight, product, widened},
};

/// Arithmetic of libtorch on the processor, in f32.
pub(crate) struct TchArithmetic;

impl TchArithmetic {
    /// With `threads` threads for operations of the thread that calls this, or one for each core.
    pub(crate) fn new(threads: Option<usize>) -> Self {
        if let Some(threads) = threads.and_then(|threads| i32::try_from(threads).ok()) {
            tch::set_num_threads(threads.max(1));
        }
        Self
    }
}

impl Arithmetic for TchArithmetic {
    /// Of shape `[rows, width]`.
    type Rows = Tensor;
    type Matrix = Weight;
    type Vector = Weight;
    type Cache = Cache;
    type Frame = Frame;

    fn within(&self, job: &mut (dyn FnMut() + Send)) {
        tch::no_grad(job);
    }

    fn dtype(&self, _: Stored) -> String {
        "f32".to_owned()
    }

    fn matrix(&self, view: &View<'_>, _: Use) -> Result<Weight, PortError> {
        widened(view).map(Weight::new).map_err(library)
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Weight, PortError> {
        Tensor::f_from_slice(&numbers).map(Weight::new).map_err(library)
    }

    fn rows(&self, numbers: Vec<f32>, width: usize) -> Result<Tensor, PortError> {
        Tensor::f_from_slice(&numbers).and_then(|rows| rows.f_reshape([-1, width as i64])).map_err(library)
    }

    fn numbers(&self, rows: Tensor) -> Result<Vec<f32>, PortError> {
        let mut numbers = vec![0f32; rows.numel()];
        let len = numbers.len();
        rows.f_contiguous().and_then(|rows| rows.f_copy_data(&mut numbers, len)).map_err(library)?;
        Ok(numbers)
    }

    fn select(&self, matrix: &Weight, ids: &[u32]) -> Result<Tensor, PortError> {
        let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let rows = |ids: Tensor| matrix.with(|matrix| matrix.f_index_select(0, &ids));
        Tensor::f_from_slice(&ids).and_then(rows).map_err(library)
    }

    fn product(&self, x: &Tensor, matrix: &Weight, bias: Option<&Weight>) -> Result<Tensor, PortError> {
        let product = matrix.with(|matrix| match bias {
            None => product(x, matrix, None),
            Some(bias) => bias.with(|bias| product(x, matrix, Some(bias))),
        });
        product.map_err(library)
    }

    fn product_gradient(&self, y: &Tensor, matrix: &Weight) -> Result<Tensor, PortError> {
        matrix.with(|matrix| y.f_matmul(matrix)).map_err(library)
    }

    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor, PortError> {
        x.f_add(y).map_err(library)
    }

    fn columns(&self, x: &Tensor, start: usize, end: usize) -> Result<Tensor, PortError> {
        x.f_narrow(1, start as i64, (end - start) as i64).map_err(library)
    }

    fn part(&self, x: &Tensor, start: usize, end: usize) -> Result<Tensor, PortError> {
        x.f_narrow(0, start as i64, (end - start) as i64).map_err(library)
    }

    fn join(&self, parts: Vec<Tensor>) -> Result<Tensor, PortError> {
        Tensor::f_cat(&parts, 0).map_err(library)
    }

    fn layer_norm(&self, x: &Tensor, scale: &Weight, shift: &Weight, eps: f32) -> Result<Tensor, PortError> {
        let width = [x.size()[1]];
        let norm =
            |scale: &Tensor, shift: &Tensor| x.f_layer_norm(width, Some(scale), Some(shift), f64::from(eps), false);
        scale.with(|scale| shift.with(|shift| norm(scale, shift))).map_err(library)
    }

    fn rms_norm(&self, x: &Tensor, scale: &Weight, eps: f32) -> Result<Tensor, PortError> {
        let width = [x.size()[1]];
        scale.with(|scale| x.f_rms_norm(width, Some(scale), f64::from(eps))).map_err(library)
    }

    fn gelu(&self, x: Tensor) -> Result<Tensor, PortError> {
        x.f_gelu("tanh").map_err(library)
    }

    fn gated(&self, mut gate: Tensor, up: &Tensor) -> Result<Tensor, PortError> {
        gate.f_silu_().and_then(|mut gate| gate.f_mul_(up)).map_err(library)
    }

    fn cache(&self, batch: usize, length: usize, heads: Heads) -> Result<Cache, PortError> {
        Cache::new(batch, length, heads).map_err(library)
    }

    fn frame(&self, place: Place, turns: Option<Vec<(f32, f32)>>, slopes: Option<&Weight>) -> Result<Frame, PortError> {
        let frame = |slopes: Option<&Tensor>| -> Result<Frame, TchError> { Frame::new(place, turns, slopes) };
        match slopes {
            None => frame(None),
            Some(slopes) => slopes.with(|slopes| frame(Some(slopes))),
        }
        .map_err(library)
    }

    fn attend(&self, qkv: [Tensor; 3], cache: &mut Cache, frame: &Frame, heads: Heads) -> Result<Tensor, PortError> {
        attend(&qkv, cache, frame, heads).map_err(library)
    }
}
