//! Swarms of servers that come, go and move, each by what it sees of the others: they settle, and miss no block that there
//! are servers for.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::{QUALITY, Seat, abandons, choose, missing, reconsider, shuffle};
use crate::model::{BlockRange, PeerId};

const SWARMS: u64 = 400;
/// Checks of every server after which a swarm must have settled.
const ROUNDS: usize = 40;

struct Chance(ChaCha8Rng);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        (self.0.next_u64() % most as u64) as usize
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        shuffle(self.0.next_u64())(order);
    }
}

struct World {
    blocks: usize,
    seats: Vec<Seat>,
    chance: Chance,
    named: usize,
    moves: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(ChaCha8Rng::seed_from_u64(seed));
        let blocks = 2 + chance.below(23);
        Self { blocks, seats: Vec::new(), chance, named: 0, moves: 0 }
    }

    /// A server comes, and loads.
    fn join(&mut self) {
        let length = 1 + self.chance.below(self.blocks.max(2) - 1);
        let throughput =
            [0.5, 1.0, 1.0, 3.0, 20.0][self.chance.below(5)] * (1.0 + self.chance.below(100) as f64 / 400.0);
        let blocks = choose(&self.seats, self.blocks, length);
        // Names in no order of coming.
        let peer = PeerId(format!("{:04x}-{}", self.chance.below(1 << 16), self.named));
        self.named += 1;
        self.seats.push(Seat { peer, blocks, throughput, online: false });
    }

    fn leave(&mut self) {
        if !self.seats.is_empty() {
            let nth = self.chance.below(self.seats.len());
            self.seats.swap_remove(nth);
        }
    }

    /// What somebody does next: who loads has loaded, who serves looks around. Whether he moved.
    fn act(&mut self, nth: usize) -> bool {
        if !self.seats[nth].online {
            self.seats[nth].online = true;
            return false;
        }
        let own = self.seats[nth].clone();
        let chance = &mut self.chance;
        let goal = reconsider(&own, &self.seats, self.blocks, QUALITY, &mut |order| chance.shuffle(order));
        let Some(goal) = goal else { return false };
        assert!(goal != own.blocks && goal.len() == own.blocks.len() && goal.end() <= self.blocks, "{own:?} to {goal}");
        let before = missing(&self.seats, self.blocks);
        let others: Vec<Seat> = self.seats.iter().filter(|seat| seat.peer != own.peer).cloned().collect();
        if before.is_empty() {
            assert!(!abandons(own.blocks, &others), "{own:?} to {goal} in {:?}", self.seats);
        }
        self.seats[nth].blocks = goal;
        self.seats[nth].online = false;
        self.moves += 1;
        let after = missing(&self.seats, self.blocks);
        assert!(after.iter().all(|block| before.contains(block)), "a move took the last server of a block");
        true
    }

    /// Everybody looks around, in an order by chance, until nobody moves any more.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            let mut order: Vec<usize> = (0..self.seats.len()).collect();
            self.chance.shuffle(&mut order);
            let loading = self.seats.iter().any(|seat| !seat.online);
            let moved = order.iter().filter(|nth| self.act(**nth)).count();
            if moved == 0 && !loading {
                return;
            }
        }
        panic!("{} moves and no end: {:?} over {} blocks", self.moves, self.seats, self.blocks);
    }

    fn check(&self) {
        let places: usize = self.seats.iter().map(|seat| seat.blocks.len()).sum();
        if places >= self.blocks {
            assert_eq!(missing(&self.seats, self.blocks), [0; 0], "{:?} over {} blocks", self.seats, self.blocks);
        }
    }
}

#[test]
fn swarms_settle_and_miss_no_block_that_there_are_servers_for() {
    let (mut moves, mut servers) = (0, 0);
    for seed in 0..SWARMS {
        let mut world = World::new(seed);
        for _ in 0..1 + world.chance.below(12) {
            world.join();
            if world.chance.below(3) == 0 {
                world.settle();
            }
        }
        world.settle();
        world.check();
        for _ in 0..6 {
            for _ in 0..=world.chance.below(3) {
                if world.chance.below(2) == 0 {
                    world.join();
                } else {
                    world.leave();
                }
                for _ in 0..world.chance.below(4).min(world.seats.len()) {
                    let nth = world.chance.below(world.seats.len());
                    world.act(nth);
                }
            }
            world.settle();
            world.check();
        }
        moves += world.moves;
        servers += world.named;
    }
    assert!(moves > 300, "{moves} moves");
    assert!(moves < 3 * servers, "{moves} moves of {servers} servers");
}

/// The case that the reference never gets out of: three servers of two blocks each, of six.
#[test]
fn a_row_with_a_gap_at_its_end_closes_up() {
    for (first, second) in [(1.0, 2.0), (2.0, 1.0)] {
        let mut world = World { blocks: 6, ..World::new(1) };
        for (nth, (start, throughput)) in [(1, 1.0), (3, first), (0, second)].into_iter().enumerate() {
            let blocks = BlockRange::new(start, start + 2).unwrap();
            world.seats.push(Seat { peer: PeerId(nth.to_string()), blocks, throughput, online: true });
        }
        world.settle();
        world.check();
    }
}

/// Where a few are much faster than the rest, the fast ones must not chase each other.
#[test]
fn a_swarm_of_unequal_servers_gets_better_and_stays_so() {
    for seed in 0..50 {
        let mut world = World { blocks: 12, ..World::new(seed) };
        for throughput in [1.0, 50.0, 1.0, 1.0, 50.0, 1.0, 3.0, 1.0] {
            world.join();
            let last = world.seats.len() - 1;
            world.seats[last].throughput = throughput;
        }
        world.settle();
        world.check();
        let moved = world.moves;
        world.settle();
        assert_eq!(world.moves, moved, "nobody has come or gone");
    }
}
