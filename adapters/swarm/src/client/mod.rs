//! A Petals swarm as the domain sees it: a map that refreshes itself, and sessions at its servers.

mod codec;
mod config;
mod defaults;
mod dialer;
mod link;
mod refresh;
mod rtt;
mod session;
mod status;
mod view;

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, Hidden, Hop, ModelId, SwarmMap},
    ports::{BlockSession, FaultKind, PortError, RemoteSwarm, SessionNeed},
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

pub use self::{
    config::PetalsConfig,
    defaults::{PUBLIC_INITIAL_PEERS, default_dht_prefix},
    status::{ServerStatus, SwarmStatus},
};
use self::{
    dialer::Dialer,
    refresh::{View, Watcher},
    rtt::RoundTrips,
};
use crate::{
    dht::{Dht, DhtLimits},
    rpc::{Rpc, RpcLimits},
    transport::{Host, HostConfig, PeerId},
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
        let initial_peers = config.addresses()?.into_iter().map(|(_, address)| address).collect();
        let host = HostConfig {
            identity: config.identity.clone(),
            initial_peers,
            dial_timeout: config.connect_timeout,
            ..HostConfig::default()
        };
        config.check()?;
        Self::over(Rpc::new(Host::start(host).await?, RpcLimits::default()), config).await
    }

    /// As [`start`](Self::start), over a host that others use too.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration that cannot work.
    pub async fn over(rpc: Rpc, config: PetalsConfig) -> Result<Self, PortError> {
        config.check()?;
        let mut initial = Vec::new();
        for (peer, address) in config.addresses()? {
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
            stale: stale.clone(),
            codecs: Mutex::default(),
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
        Ok(Self { watcher, dialer: Arc::new(dialer), views, refreshing })
    }

    /// What the latest look at the swarm found. Does not wait for a first one.
    #[must_use]
    pub fn status(&self) -> SwarmStatus {
        let (config, view, now) = (&self.watcher.config, self.views.borrow().clone(), Instant::now());
        let connected: HashMap<String, bool> =
            self.watcher.host.connected().into_iter().map(|(peer, relayed)| (peer.to_base58(), relayed)).collect();
        let trips = self.watcher.trips();
        let server = |seen: &view::Seen| {
            let peer = &seen.peer.0;
            ServerStatus::new(seen, config.admits(peer), trips.get(&seen.peer, now), connected.get(peer).copied())
        };
        let mut servers: Vec<ServerStatus> = view.servers.iter().map(server).collect();
        servers.sort_by_key(|server| server.spans.first().copied());
        SwarmStatus {
            model: config.model.0.clone(),
            dht_prefix: config.dht_prefix.clone(),
            blocks: config.blocks,
            servers,
            missing: view.map.unwrap_or_default().missing(BlockRange::first(config.blocks)),
            age: view.seen_at.map(|at| now.duration_since(at).as_secs_f64()),
            fault: view.fault.map(|fault| fault.to_string()),
        }
    }

    /// Looks at the swarm again soon, rather than at the end of the period.
    pub fn refresh_soon(&self) {
        self.watcher.stale.notify_one();
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
        if hop.blocks.end() > self.watcher.config.blocks {
            return Err(PortError::invalid(format!("{hop} is beyond the model's blocks")));
        }
        let peer = PeerId::from_str(&hop.peer.0)
            .map_err(|error| PortError::invalid(format!("{:?} is no peer id: {error}", hop.peer.0)))?;
        self.dialer.dial(peer, hop, need).await
    }

    async fn forward(&self, hop: Hop, _: Hidden) -> Result<Hidden, PortError> {
        Err(PortError::new(FaultKind::Unsupported, format!("{hop}: rpc_forward is to come")))
    }
}
