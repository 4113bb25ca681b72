//! The world as the domain sees it: what an adapter makes of it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, Hidden, Hop, ModelId, ServerFacts, ServerInfo, SwarmMap},
    ports::{BlockEngine, BlockSession, FaultKind, Inbox, PortError, Relay, RemoteSwarm, SessionNeed, StepInput},
    routing::{InProcessSwarm, JoinedSwarm},
};
use tokio::time::timeout;

use super::{
    schedule::{Schedule, Server, State},
    toy::MODEL,
    world::{OPENING, World},
};

/// The swarm of a world: with the blocks of the client itself, where it has some.
pub(super) fn swarm(world: &Arc<World>) -> Arc<dyn RemoteSwarm> {
    let far = Arc::new(Simulated(world.clone()));
    let Some(own) = world.schedule.servers.iter().find(|server| server.here()) else { return far };
    let engine = Engine { blocks: own.blocks, far: far.clone() };
    Arc::new(JoinedSwarm::new(InProcessSwarm::new(MODEL.into(), Arc::new(engine)), far))
}

/// The servers that are not the client.
struct Simulated(Arc<World>);

/// The blocks of the client, which fail as those of any server do.
struct Engine {
    blocks: BlockRange,
    far: Arc<Simulated>,
}

#[async_trait]
impl BlockEngine for Engine {
    fn hosted(&self) -> BlockRange {
        self.blocks
    }

    fn free_tokens(&self) -> usize {
        1 << 20
    }

    async fn open(&self, blocks: BlockRange, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        self.far.0.note("opened here", blocks.to_string(), [0, 0]);
        self.far.dial(Hop { peer: InProcessSwarm::peer(), blocks }, need).await
    }
}

#[async_trait]
impl RemoteSwarm for Simulated {
    async fn map(&self, _: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        let (schedule, now) = (&self.0.schedule, self.0.now());
        let others = schedule.listed(now).filter(|server| !server.here());
        let servers: Vec<ServerInfo> = others.map(|server| info(schedule, server, now)).collect();
        Ok(Arc::new(servers.into()))
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        let stream = Stream::open(&self.0, &hop).await?;
        let (stream, inputs, position) = (Some(stream), Vec::new(), 0);
        Ok(Box::new(Session { world: self.0.clone(), hop, need, stream, inputs, position, rewound: false }))
    }

    async fn forward(&self, _: Hop, _: Hidden) -> Result<Hidden, PortError> {
        Err(PortError::new(FaultKind::Unsupported, "not part of the simulation"))
    }
}

fn info(schedule: &Schedule, server: &Server, now: Duration) -> ServerInfo {
    let others = schedule.servers.iter().filter(|other| other.pushes && other.peer != server.peer);
    let full = server.phase(schedule.looked(now)).state == State::Full;
    ServerInfo {
        peer: server.peer.clone(),
        blocks: server.blocks,
        rps: server.rps,
        rtt: Some(server.rtt).filter(|rtt| rtt.as_millis() % 4 != 0),
        next: others.map(|other| (other.peer.clone(), (server.rtt + other.rtt) / 4)).collect(),
        pushes: server.pushes,
        free_tokens: Some(if full { 0 } else { 1 << 20 }),
        facts: ServerFacts::default(),
    }
}

/// A session at a server; dropping it closes it there.
struct Stream {
    world: Arc<World>,
    id: u64,
}

impl Stream {
    async fn open(world: &Arc<World>, hop: &Hop) -> Result<Self, PortError> {
        world.note("dialled", hop.to_string(), [0, 0]);
        let opening = timeout(OPENING, world.open_session(hop)).await;
        let text = || PortError::new(FaultKind::TimedOut, format!("{hop} does not open a session"));
        match opening.map_err(|_| text()).and_then(|opened| opened) {
            Ok(id) => {
                world.note("opened", hop.to_string(), [id, 0]);
                Ok(Self { world: world.clone(), id })
            }
            Err(fault) => {
                world.note("refused", fault.to_string(), [0, 0]);
                Err(fault)
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.world.close_session(self.id);
    }
}

/// Keeps the port's promises as the libp2p adapter does: a stream that was left in the middle of a step, or that knows
/// more than the session and cannot forget it, is closed, and a new one is fed the same again.
struct Session {
    world: Arc<World>,
    hop: Hop,
    need: SessionNeed,
    stream: Option<Stream>,
    inputs: Vec<Hidden>,
    position: usize,
    /// Whether the stream has to forget something before its next step.
    rewound: bool,
}

impl Session {
    async fn run(&mut self, input: &Hidden, relay: Option<Relay>) -> Result<(Stream, Hidden), PortError> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.replay().await?,
        };
        if std::mem::take(&mut self.rewound) {
            self.world.forget(stream.id, self.position);
        }
        let output = self.world.ask(stream.id, &self.hop, input.clone(), relay).await?;
        Ok((stream, output))
    }

    async fn replay(&self) -> Result<Stream, PortError> {
        let stream = Stream::open(&self.world, &self.hop).await?;
        if !self.inputs.is_empty() {
            self.world.ask(stream.id, &self.hop, Hidden::concat(&self.inputs)?, None).await?;
        }
        Ok(stream)
    }
}

#[async_trait]
impl BlockSession for Session {
    fn blocks(&self) -> BlockRange {
        self.hop.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        let StepInput { hidden, relay } = input;
        assert!(self.position + hidden.seq() <= self.need.max_length, "the chain checks the length itself");
        let (stream, output) = self.run(&hidden, relay).await?;
        self.stream = Some(stream);
        self.position += hidden.seq();
        self.inputs.push(hidden);
        Ok(output)
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        if to > self.position {
            return Err(PortError::invalid(format!("cannot rewind from position {} to {to}", self.position)));
        }
        if to < self.position {
            match &self.stream {
                Some(_) if self.world.server(&self.hop).1.rewinds => self.rewound = true,
                _ => self.stream = None,
            }
            Hidden::truncate(&mut self.inputs, to)?;
            self.position = to;
        }
        Ok(())
    }

    fn inbox(&self) -> Option<Inbox> {
        let (_, server) = self.world.server(&self.hop);
        let stream = self.stream.as_ref().filter(|_| server.pushes)?;
        Some(Inbox { peer: self.hop.peer.clone(), session: stream.id.to_string(), blocks: self.hop.blocks })
    }
}
