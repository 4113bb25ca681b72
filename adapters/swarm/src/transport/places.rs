//! Streams that peers open, served side by side as long as there is room: so many in all, and of each peer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::{PeerId, Stream};
use tokio::task::JoinSet;

use super::{conduct::Worth, host::Incoming};

/// Streams of one protocol that are served at a time; those beyond are reset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    /// Of all peers together.
    pub(crate) all: usize,
    /// Of one peer.
    pub(crate) of_peer: usize,
}

/// Takes streams of `protocol` as long as there is room, until the host ends. What is done with them ends with this future;
/// what was done in vain is noted.
pub(crate) async fn take<F>(
    mut incoming: Incoming,
    protocol: &'static str,
    most: Most,
    serve: impl Fn(PeerId, Stream) -> F,
) where
    F: Future<Output = Worth> + Send + 'static,
{
    let (mut served, places, conduct) = (JoinSet::new(), Holdings::default(), incoming.conduct().clone());
    loop {
        tokio::select! {
            stream = incoming.next() => {
                let Some((peer, stream)) = stream else { return };
                let mut place = places.of(peer);
                if served.len() < most.all && place.grow(1, most.of_peer) {
                    let (serving, conduct) = (serve(peer, stream), conduct.clone());
                    served.spawn(async move {
                        let _place = place;
                        if serving.await == Worth::Vain {
                            conduct.charge(peer, 1.0);
                        }
                    });
                } else {
                    conduct.charge(peer, 1.0);
                    tracing::debug!(%peer, protocol, "too many streams at a time");
                }
            }
            Some(ended) = served.join_next(), if !served.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(protocol, %error, "serving a stream panicked");
                }
            }
        }
    }
}

/// How much of something each peer holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holdings(Arc<Mutex<HashMap<PeerId, usize>>>);

/// What one peer holds by one title; dropping it gives that back.
#[derive(Debug)]
pub(crate) struct Holding {
    all: Holdings,
    peer: PeerId,
    count: usize,
}

impl Holdings {
    /// Nothing yet, that may grow.
    pub(crate) fn of(&self, peer: PeerId) -> Holding {
        Holding { all: self.clone(), peer, count: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Takes `more`, as long as the peer then holds no more than `most` in all.
    pub(crate) fn grow(&mut self, more: usize, most: usize) -> bool {
        let mut held = self.all.lock();
        let sum = held.get(&self.peer).copied().unwrap_or_default().saturating_add(more);
        if sum > most {
            return false;
        }
        held.insert(self.peer, sum);
        self.count += more;
        true
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.all.lock();
        if let Some(sum) = held.get_mut(&self.peer) {
            *sum -= self.count;
            if *sum == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_holds_so_much_and_gives_it_back() {
        let (all, greedy, modest) = (Holdings::default(), PeerId::random(), PeerId::random());
        let mut held = [all.of(greedy), all.of(greedy)];
        assert!(held[0].grow(2, 3) && held[1].grow(1, 3) && !held[1].grow(1, 3));
        assert!(all.of(modest).grow(3, 3), "another peer has its own");
        drop(held);
        assert!(all.lock().is_empty());
        assert!(!all.of(greedy).grow(usize::MAX, 3) && all.of(greedy).grow(3, 3));
    }
}
