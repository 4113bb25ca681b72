//! The way back through what happens between two products, in f32 on the host. Each function is given what went into the
//! operation, and the derivatives of the loss by what came out of it.

/// Of a norm: each row of `x` with mean 0 where it is `centred`, its mean square 1, times `scale`. A shift changes nothing.
///
/// With `y = (x - mean) r` and `g = grad * scale`: `r (g - mean(g) - y mean(g y))`; without centring the first mean is left
/// out.
pub(super) fn norm(x: &[f32], grad: &[f32], scale: &[f32], eps: f32, centred: bool) -> Vec<f32> {
    let width = scale.len();
    let average = |numbers: &mut dyn Iterator<Item = f64>| numbers.sum::<f64>() / width as f64;
    let mut back = Vec::with_capacity(x.len());
    for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact(width)) {
        let mean = if centred { average(&mut x.iter().map(|v| f64::from(*v))) as f32 } else { 0.0 };
        let square = average(&mut x.iter().map(|v| f64::from(v - mean).powi(2)));
        let root = 1.0 / (square as f32 + eps).sqrt();
        let scaled = || grad.iter().zip(scale).map(|(grad, scale)| grad * scale);
        let level = if centred { average(&mut scaled().map(f64::from)) as f32 } else { 0.0 };
        let normed = || x.iter().map(|v| (v - mean) * root);
        let along = average(&mut scaled().zip(normed()).map(|(g, y)| f64::from(g) * f64::from(y))) as f32;
        back.extend(scaled().zip(normed()).map(|(g, y)| root * (g - level - y * along)));
    }
    back
}

/// Of the tanh form of GELU.
pub(super) fn gelu(x: &[f32], grad: &mut [f32]) {
    const ROOT: f32 = 0.797_884_6; // of 2 / pi, as BLOOM was trained with
    for (x, grad) in x.iter().zip(grad) {
        let square = 0.044_715 * x * x;
        let tanh = (ROOT * x * (1.0 + square)).tanh();
        *grad *= 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * ROOT * (1.0 + 3.0 * square);
    }
}

/// Of `silu(gate) * up`: by `gate`, and by `up`.
pub(super) fn gated(gate: &[f32], up: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let one = |((gate, up), grad): ((&f32, &f32), &f32)| {
        let sigmoid = 1.0 / (1.0 + (-gate).exp());
        (grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)), grad * gate * sigmoid)
    };
    gate.iter().zip(up).zip(grad).map(one).unzip()
}

/// Where two ways meet, derivatives add up.
pub(super) fn joined(mut one: Vec<f32>, other: &[f32]) -> Vec<f32> {
    one.iter_mut().zip(other).for_each(|(one, other)| *one += other);
    one
}

#[cfg(test)]
mod tests {
    use testkit::local_model::assert_near;

    use super::*;

    /// The sum of `of(x)`, each number times that of `grad`, as each number of `x` moves a little.
    fn differences(x: &[f32], grad: &[f32], of: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f32> {
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let sum = |x: &[f64]| of(x).iter().zip(grad).map(|(y, grad)| y * f64::from(*grad)).sum::<f64>();
        let moved = |nth: usize, far: f64| {
            let mut x = x.clone();
            x[nth] += far;
            sum(&x)
        };
        (0..x.len()).map(|nth| ((moved(nth, 1e-5) - moved(nth, -1e-5)) / 2e-5) as f32).collect()
    }

    const X: [f32; 6] = [0.5, -1.25, 3.0, 0.0, -7.5, 0.125];
    const GRAD: [f32; 6] = [1.0, -0.5, 0.25, 2.0, 1.5, -3.0];

    #[test]
    fn norms_of_both_kinds_go_back() {
        let scale = [1.5, -0.5, 2.0];
        for centred in [true, false] {
            let wanted = differences(&X, &GRAD, |x| {
                let row = |x: &[f64]| -> Vec<f64> {
                    let mean = if centred { x.iter().sum::<f64>() / 3.0 } else { 0.0 };
                    let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 3.0;
                    x.iter().zip(scale).map(|(v, s)| (v - mean) / (square + 1e-2).sqrt() * f64::from(s)).collect()
                };
                [row(&x[..3]), row(&x[3..])].concat()
            });
            assert_near(&norm(&X, &GRAD, &scale, 1e-2, centred), &wanted, 1e-5, "derivatives by what is normed");
        }
    }

    #[test]
    fn gelu_goes_back() {
        let root = f64::from(0.797_884_6f32);
        let gelu_of = |v: &f64| 0.5 * v * (1.0 + (root * v * (1.0 + 0.044_715 * v * v)).tanh());
        let mut found = GRAD;
        gelu(&X, &mut found);
        let wanted = differences(&X, &GRAD, |x| x.iter().map(gelu_of).collect());
        assert_near(&found, &wanted, 1e-5, "derivatives of gelu");
    }

    #[test]
    fn the_gate_goes_back_on_both_sides() {
        let up = [2.0, -1.0, 0.5, 4.0, 1.0, -0.75];
        let silu = |v: f64| v / (1.0 + (-v).exp());
        let (by_gate, by_up) = gated(&X, &up, &GRAD);
        let wanted = differences(&X, &GRAD, |x| x.iter().zip(up).map(|(v, up)| silu(*v) * f64::from(up)).collect());
        assert_near(&by_gate, &wanted, 1e-5, "derivatives by the gate");
        let wanted = differences(&up, &GRAD, |up| up.iter().zip(X).map(|(up, v)| silu(f64::from(v)) * up).collect());
        assert_near(&by_up, &wanted, 1e-5, "derivatives by what the gate lets through");
    }
}
