//! Normalisation of activation rows, and the functions between two products.

/// Layer normalisation with a scale and a shift.
pub(crate) struct LayerNorm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub eps: f32,
}

impl LayerNorm {
    /// Each row of `x`: mean 0, variance 1, scaled and shifted.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut normed = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let mean = (row.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64) as f32;
            let variance = row.iter().map(|v| f64::from(v - mean).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (variance as f32 + self.eps).sqrt();
            let numbers = row.iter().zip(&self.weight).zip(&self.bias);
            normed.extend(numbers.map(|((v, w), b)| (v - mean) * scale * w + b));
        }
        normed
    }
}

/// Root-mean-square normalisation with a scale (Zhang and Sennrich, 2019).
pub(crate) struct RmsNorm {
    pub weight: Vec<f32>,
    pub eps: f32,
}

impl RmsNorm {
    /// Each row of `x` divided by its root mean square, and scaled.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut normed = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let square = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
            let scale = 1.0 / (square as f32 + self.eps).sqrt();
            normed.extend(row.iter().zip(&self.weight).map(|(v, w)| v * scale * w));
        }
        normed
    }
}

/// `x / (1 + exp(-x))`.
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// The tanh form of GELU, with the rounded constant that BLOOM was trained with.
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (0.797_884_6 * x * (1.0 + 0.044_715 * x * x)).tanh())
}

/// Adds `y` to `x`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
