//! Streams that peers open, served side by side as long as there is room: so many in all, and of each peer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::{PeerId, Stream};
use tokio::task::JoinSet;

use super::host::Incoming;

/// Streams of one protocol that are served at a time; those beyond are reset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    /// Of all peers together.
    pub(crate) all: usize,
    /// Of one peer.
    pub(crate) of_peer: usize,
}

/// Takes streams of `protocol` as long as there is room, until the host ends. What is done with them ends with this future.
pub(crate) async fn take<F>(
    mut incoming: Incoming,
    protocol: &'static str,
    most: Most,
    serve: impl Fn(PeerId, Stream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut served, places) = (JoinSet::new(), Places::default());
    loop {
        tokio::select! {
            stream = incoming.next() => {
                let Some((peer, stream)) = stream else { return };
                match places.enter(peer, most.of_peer).filter(|_| served.len() < most.all) {
                    Some(place) => {
                        let serving = serve(peer, stream);
                        served.spawn(async move {
                            let _place = place;
                            serving.await;
                        });
                    }
                    None => tracing::debug!(%peer, protocol, "too many streams at a time"),
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

/// How many streams of each peer are served.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<HashMap<PeerId, usize>>>);

/// One of them; dropping it makes room for another.
#[derive(Debug)]
struct Place(Places, PeerId);

impl Places {
    fn enter(&self, peer: PeerId, most: usize) -> Option<Place> {
        let mut held = self.lock();
        let count = held.entry(peer).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), peer))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        if let Some(count) = held.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_so_many_places_and_gets_them_back() {
        let (places, greedy, modest) = (Places::default(), PeerId::random(), PeerId::random());
        let held: Vec<Place> = std::iter::from_fn(|| places.enter(greedy, 3)).collect();
        assert_eq!(held.len(), 3);
        assert!(places.enter(modest, 3).is_some(), "another peer has its own");
        drop(held);
        assert!(places.lock().is_empty());
        assert!(places.enter(greedy, 3).is_some());
    }
}
