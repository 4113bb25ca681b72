//! Rotary position embedding (Su et al., 2021): pairs of numbers turn by an angle that grows with the position.

use corolla_domain::ports::PortError;

use crate::{fault::unsupported, settings::Settings};

/// What is done to the frequencies so that the model reads longer texts than at first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaling {
    None,
    /// All divided by a factor.
    Linear(f64),
    /// Slow ones divided by the factor, fast ones kept, those between blended (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
}

/// How positions turn pairs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    base: f64,
    scaling: Scaling,
}

impl Rope {
    pub(super) fn read(settings: &Settings<'_>) -> Result<Self, PortError> {
        if settings.are_gguf() {
            let base = settings.number(&["llama.rope.freq_base"])?.unwrap_or(10_000.0);
            let factor = settings.number(&["llama.rope.scaling.factor", "llama.rope.scale_linear"])?.unwrap_or(1.0);
            let scaling = match settings.text(&["llama.rope.scaling.type"]) {
                None | Some("linear") => Scaling::Linear(factor),
                Some("none") => Scaling::None,
                Some(other) => return Err(unknown(settings, other)),
            };
            return Ok(Self { base, scaling });
        }
        let within = settings.within("rope_parameters").or_else(|| settings.within("rope_scaling"));
        let inner = match &within {
            Some(within) => within.number(&["rope_theta"])?,
            None => None,
        };
        let base = inner.or(settings.number(&["rope_theta"])?).unwrap_or(10_000.0);
        let scaling = match &within {
            Some(within) => scaling(within, settings)?,
            None => Scaling::None,
        };
        Ok(Self { base, scaling })
    }

    /// Radians a position for each pair of a head of `dim` numbers; `divisors` are those of a GGUF file.
    pub(super) fn frequencies(&self, dim: usize, divisors: Option<&[f32]>) -> Vec<f32> {
        let plain = (0..dim / 2).map(|pair| self.base.powf(-(2.0 * pair as f64) / dim as f64));
        let scaled = plain.map(|frequency| match self.scaling {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = original * frequency / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * kept + frequency / factor * (1.0 - kept)
            }
        });
        match divisors {
            Some(divisors) => scaled.zip(divisors).map(|(f, d)| (f / f64::from(*d)) as f32).collect(),
            None => scaled.map(|f| f as f32).collect(),
        }
    }
}

fn scaling(within: &Settings<'_>, settings: &Settings<'_>) -> Result<Scaling, PortError> {
    let required =
        |key: &str| within.number(&[key])?.ok_or_else(|| settings.fault(format!("{key} is missing in rope_scaling")));
    match within.text(&["rope_type", "type"]) {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear(required("factor")?)),
        Some("llama3") => {
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if low >= high {
                return Err(settings.fault("low_freq_factor must be below high_freq_factor in rope_scaling"));
            }
            let original = required("original_max_position_embeddings")?;
            Ok(Scaling::Llama3 { factor: required("factor")?, low, high, original })
        }
        Some(other) => Err(unknown(settings, other)),
    }
}

fn unknown(settings: &Settings<'_>, kind: &str) -> PortError {
    let fault = settings.fault(format!("rope scaling {kind:?} is not supported; default, linear and llama3 are"));
    unsupported(fault.context())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_fast_frequencies_and_slows_slow_ones() {
        let plain = Rope { base: 500_000.0, scaling: Scaling::None };
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let scaled = Rope { scaling, ..plain.clone() }.frequencies(128, None);
        let plain = plain.frequencies(128, None);
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
