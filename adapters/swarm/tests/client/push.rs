//! Servers that hand their output to the next one, through the chain.

use std::{sync::Arc, time::Duration};

use corolla_domain::{
    model::{BlockRange, Hidden, Hop, PeerId},
    ports::{BlockSession, RemoteSwarm, SessionNeed, StepInput},
    routing::{Bans, Chain, Patience},
};
use corolla_swarm::{PetalsConfig, PetalsSwarm};

use crate::{
    blocks::Blocks,
    config_at,
    fake::{BLOCKS, WIDTH},
    party::{Party, Way},
    states, step,
};

const PUSHES: &str = "2.3.0.dev2";
/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const DOES_NOT: &str = "2.2.0.post1";

/// A conversation through a party, and what it should give.
struct Talk {
    party: Party,
    swarm: Arc<PetalsSwarm>,
    chain: Chain,
    reference: Blocks,
    steps: usize,
    batch: usize,
}

impl Talk {
    async fn start(members: &[(usize, usize, &'static str)], batch: usize) -> Self {
        let party = Party::start(members).await;
        // Nobody is to be given up because this machine is busy.
        let config = PetalsConfig { request_timeout: PATIENCE, ..config_at(party.addresses()) };
        let swarm = Arc::new(PetalsSwarm::start(config).await.unwrap());
        let need = SessionNeed { max_length: 4096, batch };
        let all = BlockRange::first(BLOCKS);
        let remote: Arc<dyn RemoteSwarm> = swarm.clone();
        let chain = Chain::new(remote, Arc::new(Bans::default()), "fake".into(), all, need)
            .with_patience(Patience { stall: PATIENCE, ..Patience::default() });
        Self { party, swarm, chain, reference: Blocks::new(all), steps: 0, batch }
    }

    /// One step, which must give what the blocks give in one place.
    async fn step(&mut self, seq: usize) {
        self.steps += 1;
        let input = states(self.batch, seq, self.steps);
        let output = step(&mut self.chain, &input).await.unwrap();
        assert!(output == self.reference.step(&input), "step {} of {seq} positions", self.steps);
    }

    /// A server of the route.
    fn hop(&self, nth: usize) -> &crate::party::Server {
        self.party.named(&self.chain.route()[nth].peer.0)
    }
}

/// Waits until `holds`.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect(what);
}

#[tokio::test]
async fn a_pushed_step_is_executed_once_and_the_clients_copy_dropped() {
    for batch in [1, 3] {
        let mut talk = Talk::start(&[(0, 1, PUSHES), (1, 3, PUSHES), (3, 4, PUSHES)], batch).await;
        for seq in [5, 1, 1, 7, 1] {
            talk.step(seq).await;
        }
        // the sessions were opened by the first step, so that nobody could be told of another
        assert_eq!(talk.party.count(|d| &d.from_client), [5, 1, 1]);
        assert_eq!(talk.party.count(|d| &d.from_push), [0, 4, 4]);
        let party = &talk.party;
        until("the client's copies", || party.count(|d| &d.doubles) == [0, 4, 4]).await;
    }
}

#[tokio::test]
async fn a_push_that_comes_late_is_dropped() {
    let mut talk = Talk::start(&[(0, 2, PUSHES), (2, 4, PUSHES)], 1).await;
    talk.party.0[0].set(Way::Late);
    talk.step(5).await;
    for _ in 0..3 {
        talk.step(1).await;
        assert_eq!(talk.party.0[0].deliver().await, 1);
    }
    talk.step(2).await;
    assert_eq!(talk.party.count(|d| &d.from_client), [5, 5]);
    assert_eq!(talk.party.count(|d| &d.from_push), [0, 0]);
    let party = &talk.party;
    until("the late pushes", || party.count(|d| &d.doubles) == [0, 3]).await;
}

#[tokio::test]
async fn only_the_first_piece_of_a_long_step_is_pushed() {
    let mut talk = Talk::start(&[(0, 2, PUSHES), (2, 4, PUSHES)], 1).await;
    talk.step(1).await;
    talk.step(2500).await;
    talk.step(1).await;
    assert_eq!(talk.party.count(|d| &d.from_client), [5, 3]);
    assert_eq!(talk.party.count(|d| &d.from_push), [0, 2]);
}

#[tokio::test]
async fn a_server_that_dies_between_pushes_costs_nothing() {
    for dead in 0..3 {
        let spans = [(0, 1, PUSHES), (1, 3, PUSHES), (3, 4, PUSHES)];
        let mut talk = Talk::start(&[spans, spans].concat(), 1).await;
        for seq in [4, 1, 1] {
            talk.step(seq).await;
        }
        assert_eq!(talk.chain.report().failed_over, 0);
        let pushed = |talk: &Talk| talk.party.count(|d| &d.from_push).iter().sum::<usize>();
        assert_eq!(pushed(&talk), 4);
        talk.hop(dead).kill();
        for _ in 0..3 {
            talk.step(1).await;
        }
        assert_eq!(talk.chain.report().failed_over, 1, "hop {dead}");
        assert!(pushed(&talk) >= 4 + 4, "hop {dead}: {:?}", talk.party.count(|d| &d.from_push));
    }
}

#[tokio::test]
async fn a_step_that_was_dropped_while_it_was_pushed_leaves_nothing_behind() {
    let mut talk = Talk::start(&[(0, 1, PUSHES), (1, 3, PUSHES), (3, 4, PUSHES)], 1).await;
    talk.step(3).await;
    talk.step(1).await;
    for mute in [0, 1] {
        talk.party.0[mute].set(Way::Mute);
        let before = talk.party.count(|d| &d.from_push);
        {
            let input = states(1, 2, 77);
            let astray = step(&mut talk.chain, &input);
            let party = &talk.party;
            let arrived = until("the push", || party.count(|d| &d.from_push)[2] > before[2]);
            tokio::select! {
                outcome = astray => panic!("an answer from a mute server: {outcome:?}"),
                () = arrived => {}
            }
        }
        talk.party.0[mute].set(Way::First);
        talk.step(1).await;
        talk.step(2).await;
    }
    assert_eq!(talk.chain.report().failed_over, 0);
}

#[tokio::test]
async fn a_server_that_does_not_push_is_neither_asked_to_nor_pushed_to() {
    for (versions, pushed) in [
        ([PUSHES, DOES_NOT, PUSHES], [0, 0, 0]),
        ([DOES_NOT, PUSHES, PUSHES], [0, 0, 2]),
        ([PUSHES, PUSHES, DOES_NOT], [0, 2, 0]),
    ] {
        let mut talk = Talk::start(&[(0, 1, versions[0]), (1, 3, versions[1]), (3, 4, versions[2])], 2).await;
        for seq in [4, 1, 1] {
            talk.step(seq).await;
        }
        assert_eq!(talk.party.count(|d| &d.from_push), pushed, "{versions:?}");
    }
}

#[tokio::test]
async fn a_session_can_be_pushed_to_while_its_stream_lives() {
    let talk = Talk::start(&[(0, 4, PUSHES), (0, 4, DOES_NOT)], 1).await;
    let hop = |nth: usize| {
        let peer = PeerId(talk.party.0[nth].peer().to_base58());
        Hop { peer, blocks: BlockRange::new(1, 3).unwrap() }
    };
    let need = SessionNeed { max_length: 16, batch: 1 };
    let mut session = talk.swarm.dial(hop(0), need).await.unwrap();
    let first = session.inbox().unwrap();
    assert_eq!((&first.peer, first.blocks), (&hop(0).peer, hop(0).blocks));
    step(&mut *session, &states(1, 3, 1)).await.unwrap();
    assert_eq!(session.inbox(), Some(first.clone()));
    session.rewind(2).await.unwrap();
    assert_eq!(session.inbox(), None, "the next step opens another stream");
    step(&mut *session, &states(1, 1, 1)).await.unwrap();
    assert_ne!(session.inbox().unwrap().session, first.session);
    let wrong = Hidden::from_f32((1, 1, WIDTH), &[f32::MAX; WIDTH]).unwrap();
    session.step(StepInput::from(wrong)).await.unwrap_err();
    assert_eq!(session.inbox(), None, "a step failed");
    assert_eq!(talk.swarm.dial(hop(1), need).await.unwrap().inbox(), None);
}
