//! Many sessions at once, doing whatever sessions do, against the same sessions alone.

use std::time::Duration;

use corolla_domain::{
    model::{BlockRange, Hidden, LogitRow, TokenId, Want},
    ports::SessionNeed,
};
use futures_util::future::join_all;

use crate::{CACHE, House, states};

/// A sequence of numbers without a pattern.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }
}

/// What a session is asked for.
#[derive(Debug, Clone, Copy)]
enum Act {
    Step {
        seq: usize,
        seed: u64,
    },
    /// A step that is dropped after so many microseconds.
    Drop {
        seq: usize,
        micros: u64,
    },
    Rewind {
        to: usize,
    },
    Reorder {
        first: usize,
    },
    Score {
        seed: u64,
    },
}

/// A life of a session.
fn life(chance: &mut Chance, batch: usize) -> Vec<Act> {
    let mut position = 0;
    let act = |_| match chance.below(12) {
        0 => {
            position = chance.below(position as u64 + 1) as usize;
            Act::Rewind { to: position }
        }
        1 => Act::Drop { seq: 1 + chance.below(2) as usize * 40, micros: chance.below(300) },
        2 => Act::Reorder { first: chance.below(batch as u64) as usize },
        3 => Act::Score { seed: chance.below(1000) },
        4 => {
            let seq = 2 + chance.below(60) as usize;
            position += seq;
            Act::Step { seq, seed: chance.below(1000) }
        }
        _ => {
            position += 1;
            Act::Step { seq: 1, seed: chance.below(1000) }
        }
    };
    (0..16).map(act).collect()
}

/// What a session of `batch` rows over `blocks` answers to a life.
async fn answers(house: &House, blocks: BlockRange, batch: usize, life: &[Act]) -> Vec<Hidden> {
    let need = SessionNeed { max_length: 1024, batch };
    let mut session = house.engine.open(blocks, need).await.unwrap();
    let mut answers = Vec::new();
    for act in life {
        match *act {
            Act::Step { seq, seed } => answers.push(session.step(states(batch, seq, seed).into()).await.unwrap()),
            Act::Drop { seq, micros } => {
                let before = session.position();
                let step = session.step(states(batch, seq, 1).into());
                if tokio::time::timeout(Duration::from_micros(micros), step).await.is_ok() {
                    session.rewind(before).await.unwrap();
                }
            }
            Act::Rewind { to } => session.rewind(to).await.unwrap(),
            Act::Reorder { first } => {
                let order: Vec<usize> = (0..batch).map(|row| (row + first) % batch).collect();
                session.reorder(&order).await.unwrap();
            }
            Act::Score { seed } => {
                let rows = house.local.logits(states(1, 1, seed), Want::All).await.unwrap().rows;
                let scores: Vec<f32> = rows.into_iter().flat_map(LogitRow::into_pairs).map(|pair| pair.1).collect();
                answers.push(Hidden::from_f32((1, 1, scores.len()), &scores).unwrap());
            }
        }
    }
    answers
}

async fn as_if_alone(house: &House, seed: u64) {
    let mut chance = Chance(seed);
    let all = house.engine.hosted();
    let part = BlockRange::new(1, all.end()).unwrap();
    let lives: Vec<(BlockRange, usize, Vec<Act>)> = (0..12)
        .map(|nth| {
            let batch = 1 + chance.below(3) as usize;
            (if nth % 4 == 3 { part } else { all }, batch, life(&mut chance, batch))
        })
        .collect();
    let mut alone = Vec::new();
    for (blocks, batch, life) in &lives {
        alone.push(answers(house, *blocks, *batch, life).await);
    }
    let together = lives.iter().map(|(blocks, batch, life)| answers(house, *blocks, *batch, life));
    let together = join_all(together).await;
    for (nth, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert!(together == alone, "seed {seed}, session {nth}: {:?}", lives[nth]);
    }
    // A step that was dropped at the very end stops when its block is done; a call is answered after that.
    house.local.embed(vec![vec![TokenId(1)]]).await.unwrap();
    assert_eq!((house.ledger.caches(), house.engine.free_tokens()), (0, CACHE), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_at_once_equal_lone_ones() {
    for house in [House::llama().await, House::bloom().await] {
        for seed in 0..20 {
            as_if_alone(&house, seed).await;
        }
    }
}
