//! A Petals swarm as the domain sees it: a map that refreshes itself, and sessions at its servers.

mod codec;
mod config;
mod defaults;
mod dialer;
mod forward;
mod link;
mod pins;
mod refresh;
mod rtt;
mod session;
mod terms;
pub(crate) mod view;

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use corolla_domain::{
    model::{Hidden, Hop, ModelId, SwarmMap},
    ports::{BlockSession, FaultKind, PortError, RemoteSwarm, SessionNeed},
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::timeout,
};

pub use self::{
    config::PetalsConfig,
    defaults::{PUBLIC_INITIAL_PEERS, default_dht_prefix},
    pins::{Pin, check_pins},
};
use self::{
    dialer::Dialer,
    refresh::{View, Watcher},
    rtt::RoundTrips,
};
use crate::{
    dht::{Dht, DhtLimits},
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, Multiaddr, PeerId, listen_addresses},
};

/// One model in a swarm of Petals servers. Dropping it ends its refreshing; open sessions live on.
pub struct PetalsSwarm {
    watcher: Arc<Watcher>,
    dialer: Arc<Dialer>,
    views: watch::Receiver<View>,
    refreshing: AbortHandle,
}

impl PetalsSwarm {
    /// Starts a host of its own and begins to look at the swarm; does not wait for what it finds.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that cannot work; those of [`Host::start`].
    pub async fn start(config: PetalsConfig) -> Result<Self, PortError> {
        let initial = config.check()?;
        let host = HostConfig {
            identity: config.identity.clone(),
            initial_peers: initial.iter().map(|(_, address)| address.clone()).collect(),
            listen: listen_addresses(&config.listen)?,
            access: config.access.clone(),
            dial_timeout: config.connect_timeout,
            ..HostConfig::default()
        };
        let rpc = Rpc::new(Host::start(host).await?, RpcLimits::default());
        Ok(Self::enter(rpc, config, initial).await)
    }

    /// As [`start`](Self::start), over a host that others use too.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that cannot work.
    pub async fn over(rpc: Rpc, config: PetalsConfig) -> Result<Self, PortError> {
        let initial = config.check()?;
        Ok(Self::enter(rpc, config, initial).await)
    }

    async fn enter(rpc: Rpc, config: PetalsConfig, peers: Vec<(PeerId, Multiaddr)>) -> Self {
        let mut initial = Vec::new();
        for (peer, address) in peers {
            rpc.host().add_address(peer, address).await;
            if !initial.contains(&peer) {
                initial.push(peer);
            }
        }
        let stale = Arc::new(Notify::new());
        let dialer = Dialer {
            rpc: rpc.clone(),
            prefix: config.dht_prefix.clone(),
            width: config.hidden,
            timeout: config.request_timeout,
            most_unary: config.most_unary,
            stale: stale.clone(),
            terms: Mutex::default(),
        };
        let watcher = Arc::new(Watcher {
            host: rpc.host().clone(),
            dht: Dht::new(rpc, initial, DhtLimits::default()),
            config,
            trips: Mutex::new(RoundTrips::default()),
            stale,
        });
        let (sender, views) = watch::channel(View::default());
        let refreshing = tokio::spawn(watcher.clone().run(sender)).abort_handle();
        Self { watcher, dialer: Arc::new(dialer), views, refreshing }
    }

    /// Whom to call for a hop, where there can be such a hop.
    fn peer(&self, hop: &Hop) -> Result<PeerId, PortError> {
        let blocks = self.watcher.config.blocks;
        if hop.blocks.end() > blocks {
            return Err(PortError::invalid(format!("{hop} is beyond the model's {blocks} blocks")));
        }
        PeerId::from_str(&hop.peer.0)
            .map_err(|error| PortError::invalid(format!("{:?} is no peer id: {error}", hop.peer.0)))
    }
}

impl Drop for PetalsSwarm {
    fn drop(&mut self) {
        self.refreshing.abort();
    }
}

#[async_trait]
impl RemoteSwarm for PetalsSwarm {
    async fn map(&self, model: &ModelId) -> Result<Arc<SwarmMap>, PortError> {
        let config = &self.watcher.config;
        if *model != config.model {
            let text = format!("this swarm is looked at for {}, not for {model}", config.model);
            return Err(PortError::new(FaultKind::NotFound, text));
        }
        let mut views = self.views.clone();
        let first = views.wait_for(|view| view.map.is_some() || view.fault.is_some());
        let Ok(view) = timeout(config.first_look, first).await else {
            let text = format!("nothing was heard of the swarm within {:?}", config.first_look);
            return Err(PortError::new(FaultKind::TimedOut, text));
        };
        let view = view.map_err(|_| PortError::internal("the swarm is no longer looked at"))?;
        match (&view.map, &view.fault) {
            (Some(map), _) => Ok(map.clone()),
            (None, Some(fault)) => Err(fault.clone()),
            (None, None) => Err(PortError::internal("a look at the swarm without an outcome")),
        }
    }

    async fn dial(&self, hop: Hop, need: SessionNeed) -> Result<Box<dyn BlockSession>, PortError> {
        if need.max_length == 0 || need.batch == 0 {
            return Err(PortError::invalid("a session needs at least one row and one position"));
        }
        let peer = self.peer(&hop)?;
        self.dialer.dial(peer, hop, need).await
    }

    async fn forward(&self, hop: Hop, hidden: Hidden) -> Result<Hidden, PortError> {
        let (peer, width) = (self.peer(&hop)?, self.watcher.config.hidden);
        if hidden.width() != width {
            let text = format!("hidden states of {} numbers for a model of {width}", hidden.width());
            return Err(PortError::invalid(text));
        }
        self.dialer.forward(peer, hop.blocks, &hidden).await
    }
}
