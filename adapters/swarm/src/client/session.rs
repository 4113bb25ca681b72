//! A block session at one server.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use corolla_domain::{
    model::{BlockRange, Hidden, Hop},
    ports::{BlockSession, FaultKind, Inbox, PortError, SessionNeed, StepInput},
};

use super::{
    dialer::Dialer,
    link::{Link, is_lost},
};
use crate::{transport::PeerId, wire::tensor::cast};

/// A stream that was silent for longer may have been lost without anybody noticing: worth a second try.
const FORGOTTEN: Duration = Duration::from_secs(20);

/// Positions in the cache of one server. It remembers what it was fed: after a rewind, a dropped or a failed step, and
/// when the server has closed an idle stream or a relay has ended its circuit, a new stream is fed the same again, since
/// servers of this generation cannot rewind.
pub(super) struct RemoteSession {
    dialer: Arc<Dialer>,
    peer: PeerId,
    hop: Hop,
    need: SessionNeed,
    /// `None` where the server's cache is not what it should be. The mutex makes a stream `Sync`; nobody waits for it.
    link: Mutex<Option<Link>>,
    /// Joined along the positions: the confirmed ones.
    inputs: Vec<Hidden>,
    position: usize,
}

impl RemoteSession {
    /// A session over a link on which nothing has been computed.
    pub(super) fn new(dialer: Arc<Dialer>, peer: PeerId, hop: Hop, need: SessionNeed, link: Link) -> Self {
        Self { dialer, peer, hop, need, link: Mutex::new(Some(link)), inputs: Vec::new(), position: 0 }
    }

    fn check(&self, hidden: &Hidden) -> Result<(), PortError> {
        if (hidden.batch(), hidden.width()) != (self.need.batch, self.dialer.width()) {
            let (batch, width) = (hidden.batch(), hidden.width());
            let text = format!("hidden states of [{batch}, _, {width}] for a session of");
            return Err(PortError::invalid(format!("{text} [{}, _, {}]", self.need.batch, self.dialer.width())));
        }
        if self.position.saturating_add(hidden.seq()) > self.need.max_length {
            let (position, max) = (self.position, self.need.max_length);
            let text = format!("{} positions after {position} are more than the session's {max}", hidden.seq());
            return Err(PortError::new(FaultKind::Capacity, text));
        }
        Ok(())
    }

    /// Takes the link out of the session, where it is of use: it comes back only when a step has succeeded.
    fn take_link(&mut self) -> Option<Link> {
        let link = self.link.get_mut().unwrap_or_else(PoisonError::into_inner);
        link.take().filter(|link| !link.expired())
    }

    /// A new stream, fed with all confirmed positions.
    async fn replay(&self) -> Result<Link, PortError> {
        tracing::debug!(hop = %self.hop, positions = self.position, "feeding a new stream what the session knows");
        let mut link = self.dialer.link(self.peer, self.hop.blocks, self.need).await?;
        if !self.inputs.is_empty() {
            let dtype = link.codec().dtype;
            let pieces: Vec<Hidden> = self.inputs.iter().map(|h| cast(h, dtype)).collect::<Result<_, _>>()?;
            link.step(&Hidden::concat(&pieces)?, None).await?;
        }
        Ok(link)
    }

    async fn run(&mut self, input: &StepInput) -> Result<(Link, Hidden), PortError> {
        let (hidden, relay) = (&input.hidden, input.relay.as_ref());
        if let Some(mut link) = self.take_link() {
            // A relay ends every circuit after some minutes or bytes, however well the server is.
            let fragile = link.relayed() || link.idle() > FORGOTTEN;
            match link.step(hidden, relay).await {
                Ok(output) => return Ok((link, output)),
                Err(fault) if fragile && is_lost(&fault) => {
                    tracing::debug!(hop = %self.hop, error = %fault, "a relayed or idle stream was lost");
                }
                Err(fault) => return Err(fault),
            }
        }
        let mut link = self.replay().await?;
        let output = link.step(hidden, relay).await?;
        Ok((link, output))
    }
}

#[async_trait]
impl BlockSession for RemoteSession {
    fn blocks(&self) -> BlockRange {
        self.hop.blocks
    }

    fn position(&self) -> usize {
        self.position
    }

    async fn step(&mut self, input: StepInput) -> Result<Hidden, PortError> {
        self.check(&input.hidden)?;
        let outcome = self.run(&input).await;
        let (link, output) = outcome.inspect_err(|fault| self.dialer.failed(self.peer, fault))?;
        let output = cast(&output, input.hidden.dtype())?;
        *self.link.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(link);
        self.position += input.hidden.seq();
        self.inputs.push(input.hidden);
        Ok(output)
    }

    fn inbox(&self) -> Option<Inbox> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let session = link.as_ref()?.inbox()?.to_owned();
        Some(Inbox { peer: self.hop.peer.clone(), session, blocks: self.hop.blocks })
    }

    async fn rewind(&mut self, to: usize) -> Result<(), PortError> {
        if to > self.position {
            return Err(PortError::invalid(format!("cannot rewind from position {} to {to}", self.position)));
        }
        if to < self.position {
            drop(self.take_link());
            Hidden::truncate(&mut self.inputs, to)?;
            self.position = to;
        }
        Ok(())
    }
}
