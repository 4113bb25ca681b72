//! Room for what callers send and are sent, that of all callers together. Nobody waits for it: who comes when there is
//! none is refused.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is given away in units of this many bytes.
const UNIT: usize = 4 << 10;
/// The first bytes of anything have room of their own: whoever sends little gets through, whatever others send.
const SHORT: usize = 64 << 10;

/// All the room there is. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Could not allocate {bytes} bytes: the messages of all callers take up the memory for them")]
pub(crate) struct NoRoom {
    bytes: usize,
}

impl Room {
    /// Room for so many bytes. A quarter of it is for the first 64 KiB of anything alone.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT);
        let short = units.div_ceil(4);
        Self { short: Arc::new(Semaphore::new(short)), long: Arc::new(Semaphore::new(units - short)) }
    }

    /// Room without end, where other limits bound what comes.
    pub(crate) fn endless() -> Self {
        Self::new(usize::MAX)
    }

    /// A share of nothing, that may grow.
    pub(crate) fn share(&self) -> Share {
        let part = |of: &Arc<Semaphore>| Part { of: of.clone(), held: None };
        Share { short: part(&self.short), long: part(&self.long) }
    }

    /// A share of so many bytes.
    pub(crate) fn take(&self, bytes: usize) -> Result<Share, NoRoom> {
        let mut share = self.share();
        share.grow(bytes)?;
        Ok(share)
    }
}

/// Room that is taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    short: Part,
    long: Part,
}

impl Share {
    /// Makes it one of at least so many bytes.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let grown = self.short.grow(bytes.min(SHORT)) && self.long.grow(bytes.saturating_sub(SHORT));
        if grown { Ok(()) } else { Err(NoRoom { bytes }) }
    }
}

#[derive(Debug)]
struct Part {
    of: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Part {
    fn grow(&mut self, bytes: usize) -> bool {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(UNIT).saturating_sub(held);
        if missing == 0 {
            return true;
        }
        let units = u32::try_from(missing).unwrap_or(u32::MAX);
        let Ok(more) = self.of.clone().try_acquire_many_owned(units) else { return false };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }
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

    #[test]
    fn what_is_dropped_is_there_again() {
        let room = Room::new(4 * MIB);
        let all = room.take(3 * MIB).unwrap();
        assert_eq!(room.take(MIB).unwrap_err(), NoRoom { bytes: MIB });
        drop(all);
        room.take(3 * MIB).unwrap();
    }

    #[test]
    fn a_share_grows_by_what_is_missing() {
        let room = Room::new(4 * MIB);
        let mut share = room.share();
        for kib in 0..=2 * 1024 {
            share.grow(kib << 10).unwrap();
        }
        let rest = room.take(MIB).unwrap();
        assert!(share.grow(3 * MIB).is_err());
        share.grow(2 * MIB).unwrap();
        drop(rest);
        share.grow(3 * MIB).unwrap();
    }

    #[test]
    fn short_messages_have_room_when_long_ones_have_none() {
        let room = Room::new(4 * MIB);
        let _long = room.take(3 * MIB + SHORT).unwrap();
        let _short: Vec<Share> = (0..14).map(|_| room.take(SHORT).unwrap()).collect();
        assert!(room.take(SHORT + 1).is_err());
        let _last = room.take(SHORT).unwrap();
        assert!(room.take(1).is_err(), "their room has an end too");
    }

    #[test]
    fn what_nobody_can_have_is_refused() {
        assert!(Room::new(4 * MIB).take(usize::MAX).is_err());
        Room::endless().take(1 << 40).unwrap();
    }
}
