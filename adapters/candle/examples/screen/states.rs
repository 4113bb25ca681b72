//! States to score: the model's own kind, and hard ones.

use corolla_checkpoint::{Checkpoint, NormKind};
use corolla_domain::{model::TokenId, ports::LocalModel};

use crate::Outcome;

/// What hard states are made of.
pub(crate) struct Hard {
    /// Rows of the head.
    rows: Vec<Vec<f32>>,
    /// What the last norm multiplies with.
    scale: Vec<f32>,
}

impl Hard {
    pub(crate) async fn new(path: &str, local: &dyn LocalModel) -> Outcome<Self> {
        let checkpoint = Checkpoint::open(path.as_ref())?;
        let about = checkpoint.description()?;
        let scale = match about.norm {
            NormKind::Rms => checkpoint.tensors().vector(&format!("{}.weight", about.ends.last_norm), about.hidden)?,
            NormKind::Layer => vec![1.0; about.hidden],
        };
        // Where embeddings score too they are the head's rows, else as good as any.
        let (vocab, mut noise) = (local.spec().vocab, Noise(3));
        let tokens = (0..512).map(|_| TokenId(noise.below(vocab) as u32)).collect();
        let rows = local.embed(vec![tokens]).await?.to_f32();
        Ok(Self { rows: rows.chunks_exact(about.hidden).map(<[f32]>::to_vec).collect(), scale })
    }

    /// A state that the last norm turns towards a row.
    fn along(&self, noise: &mut Noise) -> Vec<f32> {
        let row = &self.rows[noise.below(self.rows.len())];
        row.iter().zip(&self.scale).map(|(row, scale)| row / scale).collect()
    }

    /// One in which a row leads as a likely token does: seven times as far from the others as they are from each other.
    pub(crate) fn likely(&self, noise: &mut Noise) -> Vec<f32> {
        let row = self.along(noise);
        let length = row.iter().map(|number| number * number).sum::<f32>().sqrt();
        let normal = |noise: &mut Noise| 1.73 * (0..4).map(|_| noise.next() - 0.5).sum::<f32>();
        row.iter().map(|number| 7.0 * number / length + normal(noise)).collect()
    }

    pub(crate) fn state(&self, noise: &mut Noise) -> Vec<f32> {
        let (a, b) = (self.along(noise), self.along(noise));
        let both = |of: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(a, b)| of(*a, *b)).collect::<Vec<f32>>();
        match noise.below(9) {
            0 => a,
            1 => both(|a, b| a + b),
            2 => both(|a, b| a - b),
            3 => {
                let mut one = vec![0.0; a.len()];
                one[noise.below(b.len())] = noise.next() - 0.5;
                one
            }
            4 => a.iter().map(|_| noise.next() - 0.5).collect(),
            5 => vec![0.0; a.len()],
            6 => a.iter().map(|a| a * 1e-30).collect(),
            7 => self.likely(noise),
            _ => a.iter().map(|a| a * 1e15).collect(),
        }
    }
}

/// Numbers without a pattern.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    /// In 0..1.
    pub(crate) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() * bound as f32) as usize).min(bound - 1)
    }
}
