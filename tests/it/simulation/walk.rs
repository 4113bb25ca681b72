//! A chain by itself: steps of any length, rewinds, steps that are dropped, and what the chain reports of its servers.

use std::{sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, Hidden, RouteReport},
    ports::{BlockSession, PortError, SessionNeed, StepInput},
    routing::{Bans, Chain},
};
use tokio::time::{sleep, timeout};

use super::{
    PATIENCE, client,
    dice::Dice,
    judge,
    schedule::ALL_WELL,
    toy::{Cache, MODEL},
    world::World,
};

const LONGEST: usize = 500;

struct Walk<'a> {
    world: &'a Arc<World>,
    chain: Chain,
    fed: Vec<f32>,
    report: RouteReport,
    /// When the last step that went well began.
    well: Duration,
    /// Whether a step failed or was dropped since.
    troubled: bool,
}

/// A walk through the schedule until all servers are well, and one more step.
pub(super) async fn walk(world: &Arc<World>, seed: u64) {
    let (swarm, bans) = (client::swarm(world), Arc::<Bans>::default());
    let need = SessionNeed { max_length: LONGEST, batch: 1 };
    let chain = Chain::new(swarm, bans, MODEL.into(), BlockRange::first(world.schedule.blocks), need);
    let (chain, fed, report) = (chain.with_patience(PATIENCE), Vec::new(), RouteReport::default());
    let mut walk = Walk { world, chain, fed, report, well: Duration::ZERO, troubled: false };
    let dice = &mut Dice::new(seed, 9);
    for _ in 0..dice.one(5..40) {
        if dice.percent(30) {
            sleep(dice.ms(0..9000)).await;
        }
        if dice.percent(10) || walk.fed.len() > LONGEST - 100 {
            let to = dice.one(0..walk.fed.len().min(LONGEST - 100) + 1);
            walk.chain.rewind(to).await.unwrap();
            walk.fed.truncate(to);
            world.note("rewound", "", [to as u64, 0]);
        }
        let limit = if dice.percent(15) { dice.ms(1..3000) } else { Duration::MAX };
        walk.step(limit, dice).await;
    }
    world.until(ALL_WELL + Duration::from_secs(30)).await;
    assert!(walk.step(Duration::MAX, dice).await, "all servers are well");
    drop(walk);
    assert_eq!(world.open(), 0, "sessions are left open");
}

impl Walk<'_> {
    /// Whether the step was done.
    async fn step(&mut self, limit: Duration, dice: &mut Dice) -> bool {
        let many = if self.fed.is_empty() && dice.percent(15) { 250 } else { dice.one(1..60) };
        let positions = if dice.percent(70) { 1 } else { many };
        let values: Vec<f32> = (0..positions).map(|_| dice.one(0..60_000) as f32).collect();
        let hidden = Hidden::from_f32((1, positions, 1), &values).unwrap();
        let begun = self.world.now();
        let outcome = timeout(limit, self.chain.step(StepInput::from(hidden))).await;
        self.world.note("stepped", "", [self.fed.len() as u64, positions as u64]);
        match &outcome {
            Err(_) => self.troubled = true,
            Ok(Err(fault)) => self.failed(fault, begun),
            Ok(Ok(output)) => self.went_well(&values, output, begun),
        }
        assert_eq!(self.chain.position(), self.fed.len());
        matches!(outcome, Ok(Ok(_)))
    }

    fn failed(&mut self, fault: &PortError, begun: Duration) {
        judge::fault(self.world, fault, self.well, begun, 1);
        self.troubled = true;
    }

    fn went_well(&mut self, values: &[f32], output: &Hidden, begun: Duration) {
        let mut truth = Cache::new(self.chain.blocks());
        self.fed.iter().for_each(|value| {
            truth.feed(*value);
        });
        let wanted: Vec<f32> = values.iter().map(|value| truth.feed(*value)).collect();
        assert_eq!(output.to_f32(), wanted, "after {} positions", self.fed.len());
        self.fed.extend(values);
        let report = self.chain.report();
        judge::report(self.world, &self.report, &report, self.well);
        let kept = report.hops.iter().all(|new| self.report.hops.iter().any(|old| old.hop == new.hop));
        let told = report.failed_over > self.report.failed_over;
        assert!(kept || told || self.troubled || self.report.hops.is_empty(), "a new route, and no word of it");
        self.report = report;
        self.well = begun;
        self.troubled = false;
    }
}
