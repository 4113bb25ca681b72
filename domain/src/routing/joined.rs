//! The blocks of this process and those of a swarm, as one swarm.

use std::sync::Arc;

use async_trait::async_trait;

use super::InProcessSwarm;
use crate::{
    model::{Hidden, Hop, ModelId, ServerInfo, SwarmMap},
    ports::{BlockSession, PortError, RemoteSwarm, SessionNeed},
};

/// A model of which this process hosts some blocks, and a swarm whatever it has; usually the rest.
pub struct JoinedSwarm {
    here: InProcessSwarm,
    far: Arc<dyn RemoteSwarm>,
}

impl JoinedSwarm {
    /// The blocks of `here` and those of `far`.
    #[must_use]
    pub fn new(here: InProcessSwarm, far: Arc<dyn RemoteSwarm>) -> Self {
        Self { here, far }
    }

    /// The servers of both, those of this process first. A far swarm that cannot be looked at takes nothing away from
    /// what is here: the map tells why it is not in it.
    #[must_use]
    pub fn join(here: &[ServerInfo], far: Result<Arc<SwarmMap>, PortError>) -> SwarmMap {
        let far = far.unwrap_or_else(|fault| Arc::new(SwarmMap { fault: Some(fault), ..SwarmMap::default() }));
        SwarmMap { servers: [here, &far.servers].concat(), fault: far.fault.clone() }
    }

    fn host(&self, hop: &Hop) -> &dyn RemoteSwarm {
        if hop.peer == InProcessSwarm::peer() { &self.here } else { &*self.far }
    }
}

#[async_trait]
impl RemoteSwarm for JoinedSwarm {
    async fn map(&self, model: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        let here = self.here.map(model).await?;
        Ok(Arc::new(Self::join(&here.servers, self.far.map(model).await)))
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        self.host(&hop).dial(hop, need).await
    }

    async fn forward(&self, hop: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        self.host(&hop).forward(hop, hidden).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        model::BlockRange,
        ports::{FaultKind, MockBlockEngine, MockBlockSession, MockRemoteSwarm},
    };

    /// Blocks 0:2 here. What was asked of the far side is in the list.
    fn joined(far: Result<Vec<ServerInfo>, PortError>) -> (JoinedSwarm, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let mut engine = MockBlockEngine::new();
        engine.expect_hosted().returning(|| BlockRange::first(2));
        engine.expect_free_tokens().returning(|| 100);
        engine.expect_open().returning(|_, _| {
            let mut session = MockBlockSession::new();
            session.expect_step().returning(|input| Ok(input.hidden));
            Ok(Box::new(session))
        });
        let mut swarm = MockRemoteSwarm::new();
        swarm.expect_map().returning(move |_| far.clone().map(|servers| Arc::new(servers.into())));
        let refusal = |what: &str, hop: &Hop| PortError::new(FaultKind::Unavailable, format!("{what} {hop}"));
        let dials = asked.clone();
        swarm.expect_dial().returning(move |hop, _| {
            dials.lock().unwrap().push(format!("dial {hop}"));
            Err(refusal("dial", &hop))
        });
        let forwards = asked.clone();
        swarm.expect_forward().returning(move |hop, hidden| {
            forwards.lock().unwrap().push(format!("forward {hop}"));
            Ok(hidden)
        });
        (JoinedSwarm::new(InProcessSwarm::new("m".into(), Arc::new(engine)), Arc::new(swarm)), asked)
    }

    fn far(peer: &str, start: usize, end: usize) -> ServerInfo {
        ServerInfo { peer: peer.into(), ..InProcessSwarm::offer(BlockRange::new(start, end).unwrap(), 9) }
    }

    fn hop(peer: &str) -> Hop {
        Hop { peer: peer.into(), blocks: BlockRange::first(2) }
    }

    #[tokio::test]
    async fn the_map_shows_this_process_and_then_the_others() {
        let (swarm, _) = joined(Ok(vec![far("a", 0, 4), far("b", 2, 4)]));
        let map = swarm.map(&"m".into()).await.unwrap();
        let shown: Vec<String> = map.servers.iter().map(|s| format!("{}@{}", s.blocks, s.peer)).collect();
        assert_eq!(shown, ["0:2@in-process", "0:4@a", "2:4@b"]);
        assert!(map.fault.is_none());
        let fault = swarm.map(&"other".into()).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::NotFound);
    }

    #[tokio::test]
    async fn blocks_that_are_here_stay_on_the_map_of_a_swarm_that_cannot_be_reached() {
        let silent = PortError::new(FaultKind::TimedOut, "nothing was heard of the swarm within 5s");
        let map = joined(Err(silent)).0.map(&"m".into()).await.unwrap();
        assert_eq!((map.servers.len(), map.missing(BlockRange::first(4))), (1, vec![2, 3]));
        let fault = map.no_host("blocks 2, 3");
        let told = "no server is known for blocks 2, 3: the swarm could not be reached: \
                    nothing was heard of the swarm within 5s";
        assert_eq!((fault.kind(), fault.context()), (FaultKind::TimedOut, told));
    }

    #[tokio::test]
    async fn a_hop_is_run_where_its_peer_is() {
        let (swarm, asked) = joined(Ok(vec![far("a", 2, 4)]));
        let need = SessionNeed { max_length: 4, batch: 1 };
        let hidden = Hidden::from_f32((1, 1, 1), &[1.0]).unwrap();
        swarm.dial(hop("in-process"), need).await.unwrap();
        swarm.forward(hop("in-process"), hidden.clone()).await.unwrap();
        assert!(asked.lock().unwrap().is_empty(), "what is here is not asked of others");
        swarm.dial(hop("a"), need).await.err().unwrap();
        swarm.forward(hop("a"), hidden).await.unwrap();
        assert_eq!(*asked.lock().unwrap(), ["dial 0:2@a", "forward 0:2@a"]);
    }
}
