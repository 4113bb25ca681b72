//! Two thousand schedules of kills, stalls, late returns, lost sessions, full caches, stale maps and nonsense, drawn
//! from seeds and run on a paused clock. Whatever happens to the servers, what comes out is what would have come out
//! without any fault, or a failure that names what is missing, before its deadline; afterwards the session goes on as if
//! nothing had happened.
//!
//! Not in it: answers of the right shape that are plausible and wrong. Nobody can tell them from right ones.
//!
//! `COROLLA_SEED=123 cargo nextest run simulation` runs one seed alone; a seed that fails prints what happened.
//! `COROLLA_SCHEDULES=100000` runs more of them.

mod client;
mod dice;
mod judge;
mod schedule;
mod talk;
mod toy;
mod walk;
mod world;

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use corolla_domain::routing::Patience;

use self::world::{Happening, World};

const SCHEDULES: u64 = 2000;
const PATIENCE: Patience = Patience { without_route: Duration::from_secs(30), stall: Duration::from_secs(2) };

/// Tells how to run a seed that fails alone, and what happened in it.
struct Witness(u64, Arc<World>);

impl Drop for Witness {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let schedule = &self.1.schedule;
        eprintln!("{:?}, {} blocks, a map every {:?}", schedule.kind, schedule.blocks, schedule.refresh);
        for server in &schedule.servers {
            eprintln!("{server:?}");
        }
        for Happening { at, what, to, numbers } in self.1.happened() {
            eprintln!("{:>10.3} {what} {to} {numbers:?}", at.as_secs_f64());
        }
        eprintln!("\nto run it alone: COROLLA_SEED={} cargo nextest run simulation", self.0);
    }
}

/// Runs one schedule and returns what happened.
fn run(seed: u64) -> Vec<Happening> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(seed));
        let witness = Witness(seed, world.clone());
        if seed.is_multiple_of(2) {
            talk::talk(&world, seed).await;
        } else {
            walk::walk(&world, seed).await;
        }
        drop(witness);
        world.happened()
    })
}

/// Runs schedules, each twice, and counts what happened in them.
fn run_twice(seeds: Range<u64>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for seed in seeds {
        let (first, second) = (run(seed), run(seed));
        let differ = first.iter().zip(&second).position(|(a, b)| a != b);
        assert_eq!(differ, None, "the second run of seed {seed} parts from the first");
        assert_eq!(first.len(), second.len(), "the second run of seed {seed} ends elsewhere");
        first.iter().for_each(|happening| *counts.entry(happening.what).or_default() += 1);
    }
    counts
}

fn quarter(nth: u64) {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let all = number("COROLLA_SCHEDULES").unwrap_or(SCHEDULES);
    if let Some(seed) = number("COROLLA_SEED") {
        run_twice(seed..seed + u64::from(nth == 0));
        return;
    }
    let counts = run_twice(all * nth / 4..all * (nth + 1) / 4);
    println!("{counts:?}");
    let all = ["refused", "broke", "nonsense", "pushed", "interrupted", "rewound", "failed", "token"];
    for what in all.into_iter().chain(["lost", "opened here", "lost here"]) {
        assert!(counts.contains_key(what), "in no schedule anything was {what}");
    }
}

#[test]
fn whatever_fails_the_words_are_the_same_1_of_4() {
    quarter(0);
}

#[test]
fn whatever_fails_the_words_are_the_same_2_of_4() {
    quarter(1);
}

#[test]
fn whatever_fails_the_words_are_the_same_3_of_4() {
    quarter(2);
}

#[test]
fn whatever_fails_the_words_are_the_same_4_of_4() {
    quarter(3);
}
