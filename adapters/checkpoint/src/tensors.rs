//! Tensors taken out of a checkpoint by name, with their shapes checked.

use std::borrow::Cow;

use corolla_domain::ports::PortError;

use crate::{
    families::{Linear, RowOrder},
    fault::bad_file,
    weights::{View, Weights},
};

/// The tensors of one checkpoint. Every fault names the file and the tensor.
#[derive(Clone, Copy)]
pub struct Tensors<'a> {
    weights: &'a dyn Weights,
}

impl<'a> Tensors<'a> {
    pub(crate) fn of(weights: &'a dyn Weights) -> Self {
        Self { weights }
    }

    /// A tensor of any shape; missing is a fault.
    fn view(&self, name: &str) -> Result<View<'a>, PortError> {
        self.weights.view(name)?.ok_or_else(|| {
            let fault = format!("has no tensor {name}; the file is incomplete or of another model");
            bad_file(self.weights.place(), fault)
        })
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<View<'a>, PortError> {
        let view = self.view(name)?;
        if view.shape != shape {
            let fault = format!("tensor {name} has shape {:?}, the configuration asks for {shape:?}", view.shape);
            return Err(bad_file(view.file, fault));
        }
        if !view.fits() {
            let fault = format!("tensor {name} of shape {shape:?} cannot be {} bytes", view.bytes.len());
            return Err(bad_file(view.file, fault));
        }
        Ok(view)
    }

    /// How many rows the matrix of that name has, at most `most`.
    ///
    /// # Errors
    /// `InvalidInput` where it is missing or no such matrix.
    pub fn rows(&self, name: &str, most: usize) -> Result<usize, PortError> {
        let view = self.view(name)?;
        match view.shape[..] {
            [rows, _] if (1..=most).contains(&rows) => Ok(rows),
            _ => {
                let fault = format!("tensor {name} has shape {:?}, which is no matrix of a model", view.shape);
                Err(bad_file(view.file, fault))
            }
        }
    }

    /// A matrix of that shape, in its stored form.
    ///
    /// # Errors
    /// `InvalidInput` where it is missing or of another shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<View<'a>, PortError> {
        self.shaped(name, &[rows, cols])
    }

    /// `len` numbers in f32.
    ///
    /// # Errors
    /// `InvalidInput` where they are missing or of another shape.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, PortError> {
        Ok(self.shaped(name, &[len])?.to_f32())
    }

    /// `len` numbers in f32, where the tensor is there.
    ///
    /// # Errors
    /// `InvalidInput` where it is of another shape.
    pub fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, PortError> {
        self.weights.view(name)?.map(|_| self.vector(name, len)).transpose()
    }

    /// The matrix of a linear layer, and its bias where it has one, in the order that [`RowOrder`] describes.
    ///
    /// # Errors
    /// `InvalidInput` where the matrix is missing, or one of both is of another shape.
    pub fn linear(&self, linear: &Linear) -> Result<(View<'a>, Option<Vec<f32>>), PortError> {
        let Linear { name, rows, cols, order } = linear;
        let mut weight = self.matrix(&format!("{name}.weight"), *rows, *cols)?;
        let mut bias = self.optional_vector(&format!("{name}.bias"), *rows)?;
        if *order != RowOrder::AsStored {
            let row = weight.bytes.len() / rows;
            let mut bytes = Vec::with_capacity(weight.bytes.len());
            (0..*rows).for_each(|to| bytes.extend_from_slice(&weight.bytes[order.source(to, *rows) * row..][..row]));
            weight.bytes = Cow::Owned(bytes);
            bias = bias.map(|bias| (0..*rows).map(|to| bias[order.source(to, *rows)]).collect());
        }
        Ok((weight, bias))
    }
}
