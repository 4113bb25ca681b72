//! Room for what callers send and are sent, that of all callers together. Nobody waits for it: who comes when there is
//! none is refused.

use std::sync::Arc;

use bytes::Bytes;
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::transport::{Holding, Holdings};

/// Room is given away in units of this many bytes.
const UNIT: usize = 4 << 10;
/// The first bytes of anything have room of their own, which long messages of others do not take.
const SHORT: usize = 64 << 10;

/// All the room there is. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    /// What each peer has of both, and may have.
    peers: Holdings,
    most: usize,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Could not allocate {bytes} bytes: the messages of this caller, or of all, take up the memory for them")]
pub(crate) struct NoRoom {
    bytes: usize,
}

impl NoRoom {
    /// What the reference calls the exception.
    pub(crate) const CLASS: &str = "AllocationFailed";
}

impl Room {
    /// Room for so many bytes, of which one peer may have half. A quarter of it is for the first 64 KiB of anything alone.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT);
        let short = units.div_ceil(4);
        let semaphore = |units| Arc::new(Semaphore::new(units));
        Self { short: semaphore(short), long: semaphore(units - short), peers: Holdings::default(), most: units / 2 }
    }

    /// Room without end, where other limits bound what comes.
    pub(crate) fn endless() -> Self {
        Self::new(usize::MAX)
    }

    /// A share of nothing, that may grow.
    pub(crate) fn share(&self, peer: PeerId) -> Share {
        Share { holding: self.peers.of(peer), room: self.clone(), short: None, long: None }
    }
}

/// Room that a peer has taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    holding: Holding,
    short: Option<OwnedSemaphorePermit>,
    long: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Makes it one of at least so many bytes.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let more = bytes.div_ceil(UNIT).saturating_sub(self.holding.count());
        let Self { room, holding, short, long } = self;
        let grown = holding.grow(more, room.most)
            && grow(short, &room.short, bytes.min(SHORT))
            && grow(long, &room.long, bytes.saturating_sub(SHORT));
        if grown { Ok(()) } else { Err(NoRoom { bytes }) }
    }

    /// Another one of nothing, for the same peer.
    pub(crate) fn fresh(&self) -> Self {
        self.room.share(self.holding.peer())
    }

    /// Another one of so many bytes.
    pub(crate) fn another(&self, bytes: usize) -> Result<Self, NoRoom> {
        let mut share = self.fresh();
        share.grow(bytes)?;
        Ok(share)
    }
}

fn grow(held: &mut Option<OwnedSemaphorePermit>, of: &Arc<Semaphore>, bytes: usize) -> bool {
    let missing = bytes.div_ceil(UNIT).saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
    if missing == 0 {
        return true;
    }
    let units = u32::try_from(missing).unwrap_or(u32::MAX);
    let Ok(more) = of.clone().try_acquire_many_owned(units) else { return false };
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
    true
}

/// A message, and the room that it takes.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Bytes,
    pub(crate) room: Share,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A share of so many bytes for somebody else.
    fn take(room: &Room, bytes: usize) -> Result<Share, NoRoom> {
        room.share(PeerId::random()).another(bytes)
    }

    #[test]
    fn what_is_dropped_is_there_again() {
        let room = Room::new(4 * MIB);
        let all = [take(&room, 2 * MIB).unwrap(), take(&room, MIB).unwrap()];
        assert_eq!(take(&room, MIB).unwrap_err(), NoRoom { bytes: MIB });
        drop(all);
        take(&room, 2 * MIB).unwrap();
    }

    #[test]
    fn one_peer_may_have_half() {
        let room = Room::new(4 * MIB);
        let greedy = room.share(PeerId::random());
        let held = [greedy.another(MIB).unwrap(), greedy.another(MIB).unwrap()];
        assert!(greedy.another(1).is_err());
        let _modest = take(&room, MIB).unwrap();
        drop(held);
        greedy.another(MIB).unwrap();
    }

    #[test]
    fn a_share_grows_by_what_is_missing() {
        let room = Room::new(8 * MIB);
        let mut share = room.share(PeerId::random());
        for kib in 0..=2 * 1024 {
            share.grow(kib << 10).unwrap();
        }
        let rest = take(&room, 4 * MIB).unwrap();
        assert!(share.grow(3 * MIB).is_err());
        share.grow(2 * MIB).unwrap();
        drop(rest);
        share.grow(3 * MIB).unwrap();
    }

    #[test]
    fn short_messages_have_room_when_long_ones_have_none() {
        let room = Room::new(4 * MIB);
        let _long = [take(&room, 2 * MIB).unwrap(), take(&room, MIB + 2 * SHORT).unwrap()];
        let _short: Vec<Share> = (0..14).map(|_| take(&room, SHORT).unwrap()).collect();
        assert!(take(&room, SHORT + 1).is_err() && take(&room, 1).is_err(), "their room has an end too");
    }

    #[test]
    fn what_nobody_can_have_is_refused() {
        assert!(take(&Room::new(4 * MIB), usize::MAX).is_err());
        take(&Room::endless(), 1 << 40).unwrap();
    }
}
