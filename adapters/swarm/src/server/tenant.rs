//! A server that finds its own place: it takes the blocks that need one most, looks around from time to time, and moves
//! where the swarm gains by it (wire protocol §8.1, §8.2). What it decides is the domain's rule; here is how it moves.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, PeerId},
    placement::{QUALITY, Seat, choose, reconsider, shuffle},
    ports::{BlockEngine, PortError},
};
use tokio::{task::spawn_blocking, time::sleep};

use super::{BlockServer, Bootstrap, ServerConfig};

/// Where blocks come from.
#[async_trait]
pub trait Loader: Send + Sync {
    /// Loads `blocks`. May wait until memory that was in use is free.
    ///
    /// # Errors
    /// What stands in the way; it is tried again.
    async fn load(&self, blocks: BlockRange) -> Result<Arc<dyn BlockEngine>, PortError>;

    /// Whether there is memory for `blocks` while those of before are still there.
    fn fits_beside(&self, blocks: BlockRange) -> bool;
}

/// Which blocks a server has.
#[derive(Debug, Clone, Copy)]
pub enum Placement {
    /// Those it was told.
    Fixed,
    /// Those that need it most.
    Free(Balance),
}

/// How a server looks for its place. Whatever many servers would do at once is done after a time left to chance.
#[derive(Debug, Clone, Copy)]
pub struct Balance {
    /// The quality of the balance below which it moves; 0: never.
    pub quality: f64,
    /// Mean time before it first chooses.
    pub delay: Duration,
    /// Mean time between two looks around.
    pub check: Duration,
    /// How long open sessions may go on once it moves.
    pub grace: Duration,
    /// Time to the next attempt where loading failed; it doubles with each up to the second.
    pub retry: (Duration, Duration),
}

impl Default for Balance {
    /// The reference's times.
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { quality: QUALITY, delay: s(5), check: s(60), grace: s(30), retry: (s(5), s(300)) }
    }
}

/// A server with its place. Dropping it ends it without a word; [`shut_down`](Self::shut_down) says goodbye.
pub struct Tenant {
    member: Bootstrap,
    config: ServerConfig,
    placement: Placement,
    loader: Arc<dyn Loader>,
    chance: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// With the blocks it has, or is about to have; none while loading them failed.
    server: Option<BlockServer>,
    /// With the blocks it had, as long as sessions go on there.
    leaving: Option<BlockServer>,
}

impl Tenant {
    /// Of a member that serves nothing yet; it does once [`settle`](Self::settle) was called. `chance` gives another number
    /// each time.
    #[must_use]
    pub fn new(
        member: Bootstrap,
        config: ServerConfig,
        placement: Placement,
        loader: Arc<dyn Loader>,
        chance: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        Self { member, config, placement, loader, chance, server: None, leaving: None }
    }

    /// The blocks it has, or is about to have.
    #[must_use]
    pub fn blocks(&self) -> BlockRange {
        self.config.blocks
    }

    /// Sessions that are open now, and passes under way.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        [&self.server, &self.leaving].into_iter().flatten().map(BlockServer::open_sessions).sum()
    }

    /// Takes its place: chooses where that is left to it, announces it, loads the blocks and serves them.
    ///
    /// # Errors
    /// A swarm that cannot be asked or told, blocks that cannot be loaded; nothing is announced then.
    pub async fn settle(&mut self) -> Result<(), PortError> {
        if let Placement::Free(balance) = self.placement
            && self.config.blocks.len() < self.config.model_blocks
        {
            sleep(self.about(balance.delay)).await;
            let mut seats = self.member.seats(&self.config.dht_prefix, self.config.model_blocks).await?;
            let own = self.name();
            seats.retain(|seat| seat.peer != own); // of a life before
            self.config.blocks = choose(&seats, self.config.model_blocks, self.config.blocks.len());
        }
        self.announce().await?;
        let engine = self.loader.load(self.config.blocks).await;
        self.open(engine).await
    }

    /// Looks around from time to time, and moves, for as long as it is polled. May be dropped at any time; then only
    /// [`shut_down`](Self::shut_down) makes sense.
    pub async fn roam(&mut self) -> Infallible {
        let Placement::Free(balance) = self.placement else { return std::future::pending().await };
        loop {
            sleep(self.about(balance.check)).await;
            let seed = (self.chance)();
            match self.reconsider(balance, seed).await {
                Ok(Some(goal)) => self.move_to(goal, balance, seed).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the swarm could not be looked at"),
            }
            self.settle_again(balance).await;
        }
    }

    /// Announces that it goes, takes no new sessions, lets those that are open go on for up to `grace`, and ends.
    pub async fn shut_down(mut self, grace: Duration) {
        if let Some(server) = &mut self.server {
            server.say_goodbye().await;
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.say_goodbye().await; // once more: the move may have been broken off before it was heard
        }
        let drain = async |server: Option<BlockServer>| {
            if let Some(mut server) = server {
                server.drain(grace).await;
            }
        };
        tokio::join!(drain(self.server.take()), drain(self.leaving.take()));
    }

    /// Announces that it is about to serve its blocks. From the first word on there is a server that can say goodbye, also
    /// where this future is dropped.
    async fn announce(&mut self) -> Result<(), PortError> {
        let (server, announced) = BlockServer::begin(self.member.clone(), self.config.clone())?;
        self.server = Some(server);
        let outcome = announced.heard().await;
        if outcome.is_err() {
            self.server = None;
        }
        outcome
    }

    /// Serves what was loaded, or withdraws what was announced.
    async fn open(&mut self, engine: Result<Arc<dyn BlockEngine>, PortError>) -> Result<(), PortError> {
        let Some(server) = &mut self.server else { return Err(PortError::internal("nothing was announced")) };
        let opened = match engine {
            Ok(engine) => server.serve(engine).await,
            Err(fault) => Err(fault),
        };
        if opened.is_err() {
            server.say_goodbye().await;
            self.server = None;
        }
        opened
    }

    /// Where it should go, as far as it can see now.
    async fn reconsider(&self, balance: Balance, seed: u64) -> Result<Option<BlockRange>, PortError> {
        let blocks = self.config.model_blocks;
        let seats = self.member.seats(&self.config.dht_prefix, blocks).await?;
        let throughput = self.config.speed.throughput(self.config.blocks.len(), self.member.is_relayed());
        let own = Seat { peer: self.name(), blocks: self.config.blocks, throughput, online: true };
        // Of hundreds of servers it takes a while.
        let decide = move || reconsider(&own, &seats, blocks, balance.quality, &mut shuffle(seed));
        spawn_blocking(decide).await.map_err(|error| PortError::internal("the placement failed").with_source(error))
    }

    /// Leaves its blocks and takes others.
    async fn move_to(&mut self, goal: BlockRange, balance: Balance, seed: u64) {
        let Some(server) = &mut self.server else { return };
        tracing::info!(from = %self.config.blocks, to = %goal, "the swarm needs this server more elsewhere");
        server.say_goodbye().await;
        // Whoever else was about to go has said so by now, or will see that this one goes: of two that count on each other
        // not both may go. A swarm that cannot be looked at is not left either.
        let goal = match self.reconsider(balance, seed).await {
            Ok(Some(goal)) => goal,
            undecided => {
                match undecided {
                    Err(error) => tracing::warn!(%error, "the swarm could not be looked at again: this server stays"),
                    Ok(_) => tracing::info!("another server has gone meanwhile: this one stays"),
                }
                self.server.iter_mut().for_each(BlockServer::stay);
                return;
            }
        };
        let before = std::mem::replace(&mut self.config.blocks, goal);
        self.leaving = self.server.take();
        if let Err(error) = self.announce().await {
            tracing::warn!(%error, blocks = %before, "the swarm could not be told of the move: this server stays");
            self.config.blocks = before;
            self.server = self.leaving.take();
            self.server.iter_mut().for_each(BlockServer::stay);
            return;
        }
        let loader = self.loader.clone();
        let beside = loader.fits_beside(goal);
        let engine = if beside {
            tokio::join!(self.drain(balance.grace), loader.load(goal)).1
        } else {
            self.drain(balance.grace).await;
            loader.load(goal).await
        };
        match self.open(engine).await {
            Ok(()) => tracing::info!(blocks = %goal, "serving the blocks"),
            Err(error) => tracing::error!(%error, blocks = %goal, "the blocks were not loaded"),
        }
    }

    /// Ends the server of the blocks that it had.
    async fn drain(&mut self, grace: Duration) {
        if let Some(server) = &mut self.leaving {
            server.drain(grace).await;
        }
        self.leaving = None;
    }

    /// Takes a place again, in the end, where it has lost its own.
    async fn settle_again(&mut self, balance: Balance) {
        let (mut wait, longest) = balance.retry;
        while self.server.is_none() {
            tracing::info!(?wait, "trying again to load blocks");
            sleep(wait).await;
            wait = (2 * wait).min(longest);
            match self.settle().await {
                Ok(()) => tracing::info!(blocks = %self.config.blocks, "serving the blocks"),
                Err(error) => tracing::error!(%error, blocks = %self.config.blocks, "the blocks were not loaded"),
            }
        }
    }

    fn name(&self) -> PeerId {
        PeerId(self.member.host.peer_id().to_base58())
    }

    /// A time by chance, up to twice `mean`.
    fn about(&self, mean: Duration) -> Duration {
        (2 * mean).mul_f64((self.chance)() as f64 / u64::MAX as f64)
    }
}
