//! Sessions that begin as a copy of another: what they answer, and what they take of the budget.

use corolla_compute::PAGE;
use corolla_domain::ports::FaultKind;

use super::*;

/// A session, what it was fed, and how long it may get.
struct Told {
    session: Box<dyn BlockSession>,
    fed: Vec<Hidden>,
    max_length: usize,
}

impl Told {
    fn position(&self) -> usize {
        self.fed.len()
    }
}

/// What a session that nobody shares with answers last, fed position by position.
async fn alone(house: &House, fed: &[Hidden], last: usize) -> Vec<f32> {
    let mut session = house.session_over(house.engine.hosted(), 1).await;
    let fed = Hidden::concat(fed).unwrap();
    let out = session.step(fed.into()).await.unwrap();
    out.positions(out.seq() - last, out.seq()).unwrap().to_f32()
}

/// Numbers below those that are asked for, by chance (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 33) as usize % most
    }

    /// Mostly none, or within a page, or further.
    fn far(&mut self) -> usize {
        let most = [1, PAGE, 3 * PAGE][self.below(3)];
        self.below(most)
    }
}

/// Nobody can tell a fork from a session of its own, and in the end all of the budget is back.
#[tokio::test]
async fn forks_are_sessions_like_any_other() {
    for seed in 0..12 {
        let (house, mut chance, mut all) = (House::llama().await, Chance(seed), Vec::<Told>::new());
        for nth in 0..24 {
            let (deed, which) = (if all.is_empty() { 0 } else { chance.below(12) }, chance.below(all.len().max(1)));
            match deed {
                0 => {
                    let max_length = 1 + chance.below(4 * PAGE);
                    let need = SessionNeed { max_length, batch: 1 };
                    let session = house.engine.open(house.engine.hosted(), need).await.unwrap();
                    all.push(Told { session, fed: Vec::new(), max_length });
                }
                1..5 => {
                    let told = &mut all[which];
                    let count = (1 + chance.below(PAGE + 9)).min(told.max_length - told.position());
                    if count > 0 {
                        let new = states(1, count, 100 * seed + nth);
                        let found = told.session.step(new.clone().into()).await.unwrap().to_f32();
                        told.fed.extend((0..count).map(|at| new.positions(at, at + 1).unwrap()));
                        assert_eq!(found, alone(&house, &told.fed, count).await, "seed {seed}, deed {nth}");
                    }
                }
                5..7 => {
                    let told = &mut all[which];
                    let to = told.position().saturating_sub(chance.far());
                    told.session.rewind(to).await.unwrap();
                    told.fed.truncate(to);
                }
                7..10 => {
                    let told = &mut all[which];
                    let to = told.position().saturating_sub(chance.far());
                    let max_length = (to + chance.far()).max(1);
                    let session = told.session.fork(to, SessionNeed { max_length, batch: 1 }).await.unwrap();
                    let fed = told.fed[..to].to_vec();
                    all.push(Told { session, fed, max_length });
                }
                _ => drop(all.remove(which)),
            }
            let most: usize = all.iter().map(|told| told.max_length).sum();
            let taken = CACHE - house.engine.free_tokens();
            assert!(taken <= most, "seed {seed}, deed {nth}: sessions of {most} positions take {taken}");
        }
        drop(all);
        assert_eq!((house.engine.free_tokens(), house.ledger.caches()), (CACHE, 0), "seed {seed}");
    }
}

#[tokio::test]
async fn a_beginning_that_is_shared_is_reserved_once() {
    let house = House::bloom().await;
    let mut first = house.session(1, 3 * PAGE, 1).await;
    let free = house.engine.free_tokens();
    let need = SessionNeed { max_length: 3 * PAGE + 10, batch: 1 };
    let mut forks = Vec::new();
    for nth in 1..=5 {
        forks.push(first.fork(3 * PAGE, need).await.unwrap());
        assert_eq!(house.engine.free_tokens(), free - 10 * nth);
    }
    drop(first);
    assert_eq!(CACHE - house.engine.free_tokens(), 3 * PAGE + 50, "what they share outlives the first");
    let fork = forks.last_mut().unwrap();
    fork.rewind(PAGE + 1).await.unwrap();
    fork.step(states(1, 1, 2).into()).await.unwrap();
    assert_eq!(CACHE - house.engine.free_tokens(), 5 * PAGE + 50, "two pages are its own now");
    drop(forks);
    assert_eq!(house.engine.free_tokens(), CACHE);
}

#[tokio::test]
async fn a_step_that_would_copy_more_than_there_is_room_for_is_capacity_and_does_no_harm() {
    let house = House::llama().await;
    let mut first = house.session(1, 2 * PAGE, 1).await;
    let need = SessionNeed { max_length: 2 * PAGE + 1, batch: 1 };
    let mut fork = first.fork(2 * PAGE, need).await.unwrap();
    let filling = SessionNeed { max_length: house.engine.free_tokens(), batch: 1 };
    let rest = house.engine.open(house.engine.hosted(), filling).await.unwrap();
    fork.rewind(5).await.unwrap();
    let error = fork.step(states(1, 1, 2).into()).await.unwrap_err();
    assert_eq!((error.kind(), fork.position()), (FaultKind::Capacity, 5), "{error}");
    drop(rest);
    let found = fork.step(states(1, 1, 2).into()).await.unwrap();
    let mut again = house.session(1, 2 * PAGE, 1).await;
    again.rewind(5).await.unwrap();
    assert_eq!(found, again.step(states(1, 1, 2).into()).await.unwrap());
    let on = first.step(states(1, 1, 3).into()).await.unwrap();
    again.rewind(0).await.unwrap();
    again.step(states(1, 2 * PAGE, 1).into()).await.unwrap();
    assert_eq!(on, again.step(states(1, 1, 3).into()).await.unwrap(), "the first one is what it was");
}
