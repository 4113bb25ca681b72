//! Embeddings: what a model makes of a text, as one vector.

use super::{Prompt, ReplyError, SessionService, score::through};
use crate::{model::ModelId, ports::PortError};

/// How the positions of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The mean of all.
    #[default]
    Mean,
    /// The last one, which has read all the others.
    Last,
}

/// A text as a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Of length 1, as wide as the model's hidden state.
    pub values: Vec<f32>,
    /// Tokens of the text.
    pub tokens: usize,
}

impl SessionService {
    /// The embedding of `prompt`: the hidden states after the last norm, pooled, scaled to length 1.
    ///
    /// # Errors
    /// As [`SessionService::score`].
    pub async fn embed(
        &self,
        model: Option<ModelId>,
        prompt: &Prompt,
        pooling: Pooling,
    ) -> Result<Embedding, ReplyError> {
        let core = &self.core;
        let admission = core.gate.admit()?;
        let speaker = core.speaker(model.as_ref().unwrap_or(core.catalogue.default_id()))?;
        let tokens = core.alone(&speaker, prompt).await?;
        let _pass = admission.turn().await?;
        let mut sum = vec![0.0f64; speaker.spec.hidden];
        for (_, hidden) in through(core, &speaker, &tokens).await? {
            let hidden = if pooling == Pooling::Last { hidden.last()? } else { hidden };
            let normed = speaker.entry.local.normed(hidden).await?.to_f32();
            if pooling == Pooling::Last {
                sum.fill(0.0);
            }
            for row in normed.chunks_exact(sum.len()) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(PortError::internal("the model's hidden states are not finite numbers").into());
        }
        #[allow(clippy::cast_possible_truncation, reason = "vectors are told in f32")]
        let values = sum.iter().map(|value| (value / length) as f32).collect();
        Ok(Embedding { values, tokens: tokens.len() })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{
        model::Hidden,
        ports::MockLocalModel,
        routing::InProcessSwarm,
        session::{Catalogue, Limits, ModelEntry},
        testing::{self, Ledger},
    };

    /// Two numbers a position: the sum that the blocks made, and 1.
    fn service() -> SessionService {
        let mut local = MockLocalModel::new();
        local.expect_spec().returning(|| Arc::new(crate::model::ModelSpec { hidden: 2, ..testing::spec("m") }));
        local.expect_embed().returning(|rows| {
            let numbers: Vec<f32> = rows[0].iter().map(|token| token.0 as f32).collect();
            Hidden::from_f32((1, numbers.len(), 1), &numbers)
        });
        local.expect_normed().returning(|hidden| {
            let rows: Vec<f32> = hidden.to_f32().into_iter().flat_map(|sum| [sum / 997.0, 1.0]).collect();
            Hidden::from_f32((1, hidden.seq(), 2), &rows)
        });
        let engine = testing::engine(&Arc::<Ledger>::default(), 1);
        let entry = ModelEntry {
            tokenizer: Arc::new(testing::tokenizer()),
            local: Arc::new(local),
            swarm: Arc::new(InProcessSwarm::new("m".into(), Arc::new(engine))),
        };
        let store = Arc::new(testing::store(&Arc::new(Mutex::new(HashMap::new()))));
        let clock = Arc::new(1_000_000.into());
        let catalogue = Catalogue::new(vec![entry], "m".into()).unwrap();
        SessionService::new(catalogue, store, Limits::default(), testing::ambient(&clock))
    }

    /// What it must be, from the sums of all positions.
    fn expected(text: &str, pooling: Pooling) -> Vec<f32> {
        let mut sum = 0u32;
        let sums = (1u32..).zip(testing::tokens(text)).map(|(position, token)| {
            sum += position * token.0;
            f64::from(sum % 997) / 997.0
        });
        let sums: Vec<f64> = sums.collect();
        let first = match pooling {
            Pooling::Mean => sums.iter().sum::<f64>() / sums.len() as f64,
            Pooling::Last => sums[sums.len() - 1],
        };
        let length = (first * first + 1.0).sqrt();
        vec![(first / length) as f32, (1.0 / length) as f32]
    }

    #[tokio::test]
    async fn positions_are_pooled_and_scaled_to_length_one() {
        let service = service();
        for pooling in [Pooling::Mean, Pooling::Last] {
            for text in ["a", "hello", &"a long story, ".repeat(100)] {
                let prompt = Prompt::Text(text.to_owned());
                let found = service.embed(None, &prompt, pooling).await.unwrap();
                assert_eq!(found.tokens, text.len());
                for (found, wanted) in found.values.iter().zip(expected(text, pooling)) {
                    assert!((found - wanted).abs() < 1e-5, "{pooling:?} {found} {wanted}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused() {
        let service = service();
        let empty = service.embed(None, &Prompt::Tokens(Vec::new()), Pooling::Mean).await;
        assert!(matches!(empty, Err(ReplyError::EmptyInput)));
        let long = Prompt::Text("a".repeat(5000));
        let long = service.embed(None, &long, Pooling::Mean).await;
        assert!(matches!(long, Err(ReplyError::LengthNotAllowed { asked: 5000, .. })));
    }
}
