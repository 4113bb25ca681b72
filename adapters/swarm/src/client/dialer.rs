//! Opens sessions at servers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use corolla_domain::{
    model::{BlockRange, Hop},
    ports::{BlockSession, FaultKind, PortError, SessionNeed},
};
use tokio::{sync::Notify, time::Instant};

use super::{
    link::{Link, Purpose, is_lost, of_peer},
    session::RemoteSession,
    terms::Terms,
};
use crate::{
    rpc::Rpc,
    transport::PeerId,
    wire::{
        inference::{RPC_INFERENCE, RPC_INFO, info_request, parse_info},
        server::{block_key, block_uids},
    },
};

/// How long a server may take to say who it is and to set its cache aside.
const OPENING: Duration = Duration::from_secs(30);
/// How long a server may wait for room when a session takes the place of one that was just closed there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what a server said of itself is believed.
const BELIEVED: Duration = Duration::from_secs(600);
/// Servers whose words are remembered.
const REMEMBERED: usize = 1024;

/// What all sessions of a swarm share.
pub(super) struct Dialer {
    pub(super) rpc: Rpc,
    pub(super) prefix: String,
    pub(super) width: usize,
    pub(super) timeout: Duration,
    /// Bytes of hidden states that travel in one message; more are streamed.
    pub(super) most_unary: usize,
    /// Told when a server failed: the map may be out of date.
    pub(super) stale: Arc<Notify>,
    pub(super) terms: Mutex<HashMap<PeerId, (Terms, Instant)>>,
}

impl Dialer {
    /// Numbers of one hidden state.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Opens a session at `peer`; its cache is set aside when this returns.
    pub(super) async fn dial(
        self: &Arc<Self>,
        peer: PeerId,
        hop: Hop,
        need: SessionNeed,
    ) -> Result<Box<dyn BlockSession>, PortError> {
        let opened = async {
            self.connect(peer).await?;
            let relayed = self.rpc.host().is_relayed(peer);
            match self.reserve(peer, hop.blocks, need).await {
                Err(fault) if relayed && is_lost(&fault) => self.reserve(peer, hop.blocks, need).await,
                outcome => outcome,
            }
        };
        let link = opened.await.inspect_err(|fault| self.failed(peer, fault))?;
        Ok(Box::new(RemoteSession::new(self.clone(), peer, hop, need, link)))
    }

    /// A stream for which the server has set its cache aside.
    async fn reserve(&self, peer: PeerId, blocks: BlockRange, need: SessionNeed) -> Result<Link, PortError> {
        let terms = self.terms(peer, blocks).await?;
        let purpose = Purpose { timeout: self.timeout.min(OPENING), ..self.purpose(blocks, need, terms) };
        let mut link = self.open(peer, purpose).await?;
        link.reserve(self.width).await?;
        Ok(link.with_timeout(self.timeout))
    }

    /// By its own clock: a way may have to be found first.
    async fn connect(&self, peer: PeerId) -> Result<(), PortError> {
        self.rpc.host().connect(peer).await.map_err(of_peer)
    }

    /// A stream in place of another one, on which nothing has been said.
    pub(super) async fn link(&self, peer: PeerId, blocks: BlockRange, need: SessionNeed) -> Result<Link, PortError> {
        let terms = self.terms(peer, blocks).await?;
        self.open(peer, Purpose { patience: Some(PATIENCE), ..self.purpose(blocks, need, terms) }).await
    }

    /// A call to `peer` failed.
    pub(super) fn failed(&self, peer: PeerId, fault: &PortError) {
        if matches!(fault.kind(), FaultKind::Unavailable | FaultKind::TimedOut) {
            self.known().remove(&peer);
            self.stale.notify_one();
        }
    }

    fn purpose(&self, blocks: BlockRange, need: SessionNeed, terms: Terms) -> Purpose {
        let uids = block_uids(&self.prefix, blocks.start()..blocks.end());
        Purpose { uids, need, terms, patience: None, timeout: self.timeout }
    }

    async fn open(&self, peer: PeerId, purpose: Purpose) -> Result<Link, PortError> {
        let stream = self.rpc.stream(peer, RPC_INFERENCE).await.map_err(of_peer)?;
        Ok(Link::new(stream, purpose, self.rpc.host().is_relayed(peer)))
    }

    /// Asks a server for its type, compression and version, and whether it serves this model at all.
    pub(super) async fn terms(&self, peer: PeerId, blocks: BlockRange) -> Result<Terms, PortError> {
        let known = self.known().get(&peer).copied();
        if let Some((terms, _)) = known.filter(|(_, since)| since.elapsed() < BELIEVED) {
            return Ok(terms);
        }
        self.connect(peer).await?;
        let request = info_request(&block_key(&self.prefix, blocks.start()));
        let reply = self.rpc.unary(peer, RPC_INFO, request, self.timeout.min(OPENING)).await.map_err(of_peer)?;
        let info = parse_info(reply).map_err(|error| {
            let text = format!("{peer} introduced itself with nonsense: {error}");
            PortError::new(FaultKind::Unavailable, text).with_source(error)
        })?;
        if let Some(width) = info.width().filter(|width| *width != self.width as u64) {
            let text = format!("{peer} serves hidden states of {width} numbers, the model has {}", self.width);
            return Err(PortError::new(FaultKind::Unavailable, text));
        }
        tracing::debug!(%peer, version = ?info.version, dtype = ?info.dtype(), "a server introduced itself");
        let terms = Terms::of(&info);
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, since)| since.elapsed() < BELIEVED);
        }
        if known.len() < REMEMBERED {
            known.insert(peer, (terms, Instant::now()));
        }
        Ok(terms)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PeerId, (Terms, Instant)>> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
