//! Servers that add up what they are fed, and fail when told to.

use std::{
    collections::{BTreeSet, HashMap},
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use super::*;
use crate::{
    model::{PeerId, ServerFacts, ServerInfo, SwarmMap},
    ports::{BlockEngine, Inbox},
    routing::InProcessSwarm,
};

/// What a call usually takes.
pub(super) const CALL: Duration = Duration::from_millis(10);

/// A server each of whose blocks answers with the sum of all it was ever fed, plus 1: a lost, doubled or misplaced
/// position shows.
struct Summing {
    hop: Hop,
    /// The name its server knows the session by.
    name: String,
    /// For each block, its inputs.
    fed: Vec<Vec<f32>>,
    faults: Arc<Faults>,
}

/// What servers do wrong, and what they were told.
#[derive(Default)]
pub(super) struct Faults(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// Steps each peer still does before it fails, and how.
    left: HashMap<String, (usize, Fault)>,
    /// Servers that push.
    pushing: bool,
    relays: Vec<(String, Option<Relay>)>,
    open: BTreeSet<String>,
    opened: usize,
    call: Option<Duration>,
    /// Whether sessions give copies of their beginning.
    forking: bool,
    /// Whether the map shows nobody.
    hidden: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// It says so.
    Says(FaultKind),
    /// It says so, this time.
    Once(FaultKind),
    /// It never answers.
    Hangs,
}

impl Faults {
    /// `peer` (or `dial peer`) does `steps` more steps and then fails with `kind`.
    pub(super) fn after(&self, peer: &str, steps: usize, kind: FaultKind) {
        self.told().left.insert(peer.to_owned(), (steps, Fault::Says(kind)));
    }

    /// `peer` does `steps` more steps and then does not answer any more.
    pub(super) fn hangs(&self, peer: &str, steps: usize) {
        self.told().left.insert(peer.to_owned(), (steps, Fault::Hangs));
    }

    /// `peer` fails its next step only.
    pub(super) fn once(&self, peer: &str, kind: FaultKind) {
        self.told().left.insert(peer.to_owned(), (0, Fault::Once(kind)));
    }

    /// From now on a call takes so long.
    pub(super) fn slow(&self, call: Duration) {
        self.told().call = Some(call);
    }

    /// `peer` is well again.
    pub(super) fn heal(&self, peer: &str) {
        self.told().left.remove(peer);
    }

    /// From now on servers push.
    pub(super) fn push(&self) {
        self.told().pushing = true;
    }

    /// From now on sessions give copies of their beginning.
    pub(super) fn fork(&self) {
        self.told().forking = true;
    }

    /// The steps that servers were told of since this was last asked: whose, and the sessions their output is for.
    pub(super) fn relays(&self) -> String {
        let told = std::mem::take(&mut self.told().relays);
        let text = |(name, relay): (String, Option<Relay>)| {
            let next = relay.map(|relay| relay.next.into_iter().map(|inbox| inbox.session).collect::<Vec<_>>());
            format!("{name}>{}", next.map_or("?".to_owned(), |next| next.join(",")))
        };
        told.into_iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// The sessions that are open, by name.
    pub(super) fn open(&self) -> String {
        self.told().open.iter().cloned().collect::<Vec<_>>().join(" ")
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn check(&self, peer: &str) -> Result<(), PortError> {
        let call = self.told().call.unwrap_or(CALL);
        sleep(call).await;
        let fault = match self.told().left.get_mut(peer) {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if let Some(Fault::Once(_)) = fault {
            self.heal(peer);
        }
        match fault {
            Some(Fault::Says(kind) | Fault::Once(kind)) => Err(PortError::new(kind, format!("{peer} is out of order"))),
            Some(Fault::Hangs) => pending().await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl BlockSession for Summing {
    fn blocks(&self) -> BlockRange {
        self.hop.blocks
    }

    fn position(&self) -> usize {
        self.fed[0].len()
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        self.faults.told().relays.push((self.name.clone(), input.relay));
        self.faults.check(&self.hop.peer.0).await?;
        let mut outputs = input.hidden.to_f32();
        for value in &mut outputs {
            for fed in &mut self.fed {
                fed.push(*value);
                *value = fed.iter().sum::<f32>() + 1.0;
            }
        }
        Hidden::from_f32((1, outputs.len(), 1), &outputs)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        self.fed.iter_mut().for_each(|fed| fed.truncate(to));
        Ok(())
    }

    async fn fork(&mut self, to: usize, _: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if !self.faults.told().forking {
            return Err(PortError::new(FaultKind::Unsupported, "no copies are given"));
        }
        let fed = self.fed.iter().map(|fed| fed[..to].to_vec()).collect();
        Ok(open(&self.faults, self.hop.clone(), fed))
    }

    fn inbox(&self) -> Option<Inbox> {
        let pushing = self.faults.told().pushing && self.hop.peer != InProcessSwarm::peer();
        let inbox = || Inbox { peer: self.hop.peer.clone(), session: self.name.clone(), blocks: self.hop.blocks };
        pushing.then(inbox)
    }
}

impl Drop for Summing {
    fn drop(&mut self) {
        self.faults.told().open.remove(&self.name);
    }
}

/// Servers by name and blocks. The sessions are named `peer/nth`.
pub(super) struct Swarm(Arc<SwarmMap>, Arc<Faults>);

impl Swarm {
    /// Hides all servers from the map, or shows them again.
    pub(super) fn hide(&self, hidden: bool) {
        self.1.told().hidden = hidden;
    }
}

#[async_trait]
impl RemoteSwarm for Swarm {
    async fn map(&self, _: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        Ok(if self.1.told().hidden { Arc::default() } else { self.0.clone() })
    }

    async fn dial(&self, hop: Hop, _: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        dial(&self.1, hop).await
    }

    async fn forward(&self, _: Hop, _: Hidden) -> Result<Hidden, PortError> {
        Err(PortError::new(FaultKind::Unsupported, "not needed here"))
    }
}

async fn dial(faults: &Arc<Faults>, hop: Hop) -> Result<Box<dyn BlockSession>, PortError> {
    faults.check(&format!("dial {}", hop.peer)).await?;
    let fed = vec![Vec::new(); hop.blocks.len()];
    Ok(open(faults, hop, fed))
}

fn open(faults: &Arc<Faults>, hop: Hop, fed: Vec<Vec<f32>>) -> Box<dyn BlockSession> {
    let name = {
        let mut told = faults.told();
        told.opened += 1;
        let name = format!("{}/{}", hop.peer, told.opened);
        told.open.insert(name.clone());
        name
    };
    Box::new(Summing { hop, name, fed, faults: faults.clone() })
}

/// Blocks of this process, at a server named `in-process` that neither pushes nor takes pushes.
pub(super) struct Engine(pub(super) BlockRange, pub(super) Arc<Faults>);

#[async_trait]
impl BlockEngine for Engine {
    fn hosted(&self) -> BlockRange {
        self.0
    }

    fn free_tokens(&self) -> usize {
        1 << 20
    }

    async fn open(&self, blocks: BlockRange, _: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        dial(&self.1, Hop { peer: InProcessSwarm::peer(), blocks }).await
    }
}

pub(super) fn swarm(servers: &[(&str, usize, usize)], faults: &Arc<Faults>) -> Arc<Swarm> {
    let server = |(peer, start, end): &(&str, usize, usize)| ServerInfo {
        peer: PeerId((*peer).to_owned()),
        blocks: BlockRange::new(*start, *end).unwrap(),
        rps: 100.0,
        rtt: None,
        next: Vec::new(),
        pushes: false,
        free_tokens: None,
        facts: ServerFacts::default(),
    };
    let servers: Vec<ServerInfo> = servers.iter().map(server).collect();
    Arc::new(Swarm(Arc::new(servers.into()), faults.clone()))
}

pub(super) fn chain(swarm: Arc<dyn RemoteSwarm>, blocks: usize) -> Chain {
    let need = SessionNeed { max_length: 64, batch: 1 };
    Chain::new(swarm, Arc::new(Bans::default()), "m".into(), BlockRange::first(blocks), need)
}

pub(super) async fn step(chain: &mut dyn BlockSession, values: &[f32]) -> Result<Vec<f32>, PortError> {
    let hidden = Hidden::from_f32((1, values.len(), 1), values).unwrap();
    chain.step(StepInput::from(hidden)).await.map(|h| h.to_f32())
}

pub(super) fn route(chain: &Chain) -> String {
    chain.route().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
