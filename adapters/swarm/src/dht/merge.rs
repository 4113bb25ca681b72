//! What the nodes of a search know, merged by latest expiration and held within bounds.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use libp2p::PeerId;

use crate::wire::record::{Dictionary, Entry};

/// Entries kept of one key.
const MOST_ENTRIES: usize = 2048;
/// Bytes kept of all keys.
const MOST_BYTES: usize = 32 << 20;
/// Part of either that one node may fill, as a divisor: the others must have room for what they know.
const SHARES: usize = 4;
/// How far ahead an entry may expire. Servers announce themselves for five minutes (wire protocol §4.4); an entry that
/// claims to outlive every other would displace them for ever.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// What an entry takes besides its bytes.
const OVERHEAD: usize = 128;

/// The dictionaries found so far, one for each key of a search.
pub(super) struct Merged<'a> {
    dictionaries: Vec<Dictionary>,
    bytes: usize,
    /// Bytes that each node has added.
    shares: HashMap<PeerId, usize>,
    now: f64,
    sound: &'a (dyn Fn(&[u8]) -> bool + Sync),
}

impl<'a> Merged<'a> {
    /// Nothing yet for `keys` keys. Entries that expire at `now` or earlier or more than a day later, and values that
    /// are not `sound`, will not be taken: they cannot push a good one out.
    pub(super) fn new(keys: usize, now: f64, sound: &'a (dyn Fn(&[u8]) -> bool + Sync)) -> Self {
        Self { dictionaries: vec![Dictionary::default(); keys], bytes: 0, shares: HashMap::new(), now, sound }
    }

    /// Takes what is new or expires later out of a serialized dictionary that `from` has for key number `key`. No node
    /// is asked twice for a key.
    pub(super) fn offer(&mut self, from: PeerId, key: usize, serialized: &Bytes) {
        let Ok(offered) = Dictionary::decode(serialized) else {
            self.dictionaries[key].broken += 1;
            return;
        };
        self.dictionaries[key].broken += offered.broken;
        let most = MOST_ENTRIES.min(self.dictionaries[key].entries.len() + MOST_ENTRIES / SHARES);
        for (subkey, entry) in offered.entries {
            self.put(from, key, subkey, entry, most);
        }
    }

    /// Takes an entry, where that leaves the key with no more than `most`.
    fn put(&mut self, from: PeerId, key: usize, subkey: String, entry: Entry, most: usize) {
        let dictionary = &mut self.dictionaries[key];
        let held = dictionary.entries.get(&subkey);
        if entry.expiration <= self.now || held.is_some_and(|held| held.expiration >= entry.expiration) {
            return;
        }
        if entry.expiration > self.now + LONGEST_LIFE.as_secs_f64() || !(self.sound)(&entry.value) {
            dictionary.broken += 1;
            return;
        }
        let size = |entry: &Entry| entry.value.len() + subkey.len() + OVERHEAD;
        let freed = held.map_or(0, size);
        let bytes = self.bytes - freed + size(&entry);
        let share = self.shares.entry(from).or_default();
        let full = bytes > MOST_BYTES || *share + size(&entry) > MOST_BYTES / SHARES;
        if full || (held.is_none() && dictionary.entries.len() >= most) {
            return;
        }
        *share += size(&entry);
        self.bytes = bytes;
        dictionary.entries.insert(subkey, entry);
    }

    /// One dictionary a key, in order.
    pub(super) fn into_dictionaries(self) -> Vec<Dictionary> {
        self.dictionaries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dictionary(entries: &[(&str, &'static [u8], f64)]) -> Bytes {
        let mut dictionary = Dictionary::default();
        for (subkey, value, expiration) in entries {
            let entry = Entry { value: Bytes::from_static(value), expiration: *expiration };
            dictionary.entries.insert((*subkey).to_owned(), entry);
        }
        dictionary.encode().into()
    }

    fn not_bad(value: &[u8]) -> bool {
        value != b"bad"
    }

    fn values(found: &Dictionary) -> Vec<(&str, &[u8])> {
        found.entries.iter().map(|(subkey, entry)| (subkey.as_str(), &entry.value[..])).collect()
    }

    #[test]
    fn the_later_sound_entry_wins_and_expired_ones_do_not_count() {
        let (mut merged, peer) = (Merged::new(2, 100.0, &not_bad), PeerId::random());
        merged.offer(peer, 1, &dictionary(&[("a", b"old", 150.0), ("b", b"gone", 99.0)]));
        merged.offer(peer, 1, &dictionary(&[("a", b"new", 200.0), ("c", b"c", 101.0)]));
        merged.offer(peer, 1, &dictionary(&[("a", b"bad", 300.0), ("c", b"older", 100.5)]));
        let found = merged.into_dictionaries();
        assert_eq!(values(&found[1]), [("a", &b"new"[..]), ("c", b"c")]);
        assert_eq!((found[1].broken, found[0].entries.len()), (1, 0));
    }

    #[test]
    fn an_entry_that_would_outlive_all_others_displaces_nobody() {
        let (now, day) = (1.7e9, 24.0 * 3600.0);
        let (mut merged, hostile, honest) = (Merged::new(1, now, &not_bad), PeerId::random(), PeerId::random());
        let far = [now + day + 1.0, 1e18, f64::MAX, f64::INFINITY, f64::NAN, f64::NEG_INFINITY];
        for expiration in far {
            merged.offer(hostile, 0, &dictionary(&[("a", b"false", expiration)]));
        }
        merged.offer(honest, 0, &dictionary(&[("a", b"true", now + 240.0), ("b", b"a day", now + day)]));
        for expiration in far {
            merged.offer(hostile, 0, &dictionary(&[("a", b"false", expiration)]));
        }
        let found = merged.into_dictionaries();
        assert_eq!(values(&found[0]), [("a", &b"true"[..]), ("b", b"a day")]);
        assert_eq!(found[0].broken, 2 * far.len());
    }

    #[test]
    fn a_dictionary_bomb_is_cut_off() {
        let (mut merged, peer) = (Merged::new(1, 0.0, &not_bad), PeerId::random());
        for round in 0..8 {
            let mut bomb = Dictionary::default();
            for nth in 0..1000 {
                let entry = Entry { value: vec![0; 100].into(), expiration: 1.0 };
                bomb.entries.insert(format!("{round}.{nth}"), entry);
            }
            merged.offer(peer, 0, &bomb.encode().into());
        }
        merged.offer(peer, 0, &Bytes::from_static(b"rubbish"));
        assert!(merged.bytes < MOST_BYTES);
        let found = merged.into_dictionaries();
        assert_eq!((found[0].entries.len(), found[0].broken), (MOST_ENTRIES, 1));
    }

    #[test]
    fn one_node_cannot_take_the_room_of_the_others() {
        let (mut merged, hostile, honest) = (Merged::new(200, 0.0, &not_bad), PeerId::random(), PeerId::random());
        for key in 0..199 {
            for expiration in [1.0, 2.0] {
                let mut large = Dictionary::default();
                let entry = Entry { value: vec![0; 300 << 10].into(), expiration };
                large.entries.insert("large".into(), entry);
                merged.offer(hostile, key, &large.encode().into());
            }
        }
        assert!(merged.bytes <= MOST_BYTES / SHARES, "{} bytes", merged.bytes);
        let mut many = Dictionary::default();
        for nth in 0..3000 {
            many.entries.insert(nth.to_string(), Entry { value: Bytes::new(), expiration: 2.0 });
        }
        merged.offer(PeerId::random(), 199, &many.encode().into());
        merged.offer(honest, 199, &dictionary(&[("a", b"small", 1.0)]));
        let found = merged.into_dictionaries();
        assert_eq!((&found[199].entries["a"].value[..], found[199].entries.len()), (&b"small"[..], 513));
    }
}
