//! Scores over the vocabulary, for all who wait for some at once: the head's weights are read once for all.

use std::{collections::VecDeque, iter::repeat_n};

use corolla_checkpoint::guarded;
use corolla_domain::{
    model::{LogitRow, Logits, Want},
    ports::PortError,
};

use crate::{arithmetic::Arithmetic, model::Loaded, worker::Reply};

/// Rows scored at a time: bounds the memory for scores.
const ROWS: usize = 16;

/// Hidden states that wait to be scored.
pub(crate) struct Score {
    /// `[rows, width]`.
    pub numbers: Vec<f32>,
    pub width: usize,
    pub want: Want,
    /// Those that were scored, the first ones.
    pub done: Vec<LogitRow>,
    pub reply: Reply<Logits>,
}

impl Score {
    fn left(&self) -> usize {
        self.numbers.len() / self.width - self.done.len()
    }

    fn next(&self, rows: usize) -> &[f32] {
        &self.numbers[self.done.len() * self.width..][..rows * self.width]
    }
}

/// Scores the next few rows of `waiting`: some of each, as far as there is room. Whoever has rows left goes to the end.
pub(crate) fn score<B: Arithmetic>(model: &Loaded<B>, waiting: &mut VecDeque<Score>) {
    waiting.retain(|score| score.reply.is_wanted());
    let share = (ROWS / waiting.len().max(1)).max(1);
    let some = |score: Score| {
        let rows = share.min(score.left());
        (score, rows)
    };
    let batch: Vec<(Score, usize)> = waiting.drain(..waiting.len().min(ROWS)).map(some).collect();
    if !batch.is_empty() {
        run(model, batch, waiting);
    }
}

/// Scores as many rows of each. Where that fails for several, they are tried one by one: who is at fault fails alone.
fn run<B: Arithmetic>(model: &Loaded<B>, mut batch: Vec<(Score, usize)>, waiting: &mut VecDeque<Score>) {
    match guarded("scoring the vocabulary", || forward(model, &mut batch)) {
        Ok(()) => batch.into_iter().for_each(|(score, _)| settle(score, waiting)),
        Err(error) if batch.len() > 1 => {
            tracing::warn!(%error, calls = batch.len(), "scores for several calls failed, they are tried one by one");
            batch.into_iter().for_each(|one| run(model, vec![one], waiting));
        }
        Err(error) => {
            if let Some((score, _)) = batch.pop() {
                score.reply.send(Err(error));
            }
        }
    }
}

fn forward<B: Arithmetic>(model: &Loaded<B>, batch: &mut [(Score, usize)]) -> Result<(), PortError> {
    let numbers: Vec<f32> = batch.iter().flat_map(|(score, rows)| score.next(*rows)).copied().collect();
    let wants: Vec<&Want> = batch.iter().flat_map(|(score, rows)| repeat_n(&score.want, *rows)).collect();
    let mut scores = model.ends()?.scores(model.arithmetic(), numbers, &wants)?.into_iter();
    for (score, rows) in batch {
        score.done.extend(scores.by_ref().take(*rows));
    }
    Ok(())
}

fn settle(score: Score, waiting: &mut VecDeque<Score>) {
    if score.left() > 0 {
        waiting.push_back(score);
    } else {
        score.reply.send(Ok(Logits { rows: score.done }));
    }
}
