//! What the nodes of a search know, merged by latest expiration and held within bounds.

use bytes::Bytes;

use crate::wire::record::{Dictionary, Entry};

/// Entries kept of one key.
const MOST_ENTRIES: usize = 2048;
/// Bytes kept of all keys.
const MOST_BYTES: usize = 32 << 20;
/// What an entry takes besides its bytes.
const OVERHEAD: usize = 128;

/// The dictionaries found so far, one for each key of a search.
pub(super) struct Merged<'a> {
    dictionaries: Vec<Dictionary>,
    bytes: usize,
    now: f64,
    sound: &'a (dyn Fn(&[u8]) -> bool + Sync),
}

impl<'a> Merged<'a> {
    /// Nothing yet for `keys` keys. Entries that expire at `now` or earlier, and values that are not `sound`, will not
    /// be taken: they cannot push a good one out.
    pub(super) fn new(keys: usize, now: f64, sound: &'a (dyn Fn(&[u8]) -> bool + Sync)) -> Self {
        Self { dictionaries: vec![Dictionary::default(); keys], bytes: 0, now, sound }
    }

    /// Takes what is new or expires later out of a serialized dictionary for key number `key`.
    pub(super) fn offer(&mut self, key: usize, serialized: &Bytes) {
        let Ok(offered) = Dictionary::decode(serialized) else {
            self.dictionaries[key].broken += 1;
            return;
        };
        self.dictionaries[key].broken += offered.broken;
        for (subkey, entry) in offered.entries {
            self.put(key, subkey, entry);
        }
    }

    fn put(&mut self, key: usize, subkey: String, entry: Entry) {
        let dictionary = &mut self.dictionaries[key];
        let held = dictionary.entries.get(&subkey);
        if entry.expiration <= self.now || held.is_some_and(|held| held.expiration >= entry.expiration) {
            return;
        }
        if !(self.sound)(&entry.value) {
            dictionary.broken += 1;
            return;
        }
        let size = |entry: &Entry| entry.value.len() + subkey.len() + OVERHEAD;
        let freed = held.map_or(0, size);
        let bytes = self.bytes - freed + size(&entry);
        if bytes > MOST_BYTES || (held.is_none() && dictionary.entries.len() >= MOST_ENTRIES) {
            return;
        }
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

    #[test]
    fn the_later_sound_entry_wins_and_expired_ones_do_not_count() {
        let mut merged = Merged::new(2, 100.0, &not_bad);
        merged.offer(1, &dictionary(&[("a", b"old", 150.0), ("b", b"gone", 99.0)]));
        merged.offer(1, &dictionary(&[("a", b"new", 200.0), ("c", b"c", 101.0)]));
        merged.offer(1, &dictionary(&[("a", b"bad", 300.0), ("c", b"older", 100.5)]));
        let found = merged.into_dictionaries();
        let values: Vec<_> = found[1].entries.iter().map(|(k, e)| (k.as_str(), &e.value[..])).collect();
        assert_eq!(values, [("a", &b"new"[..]), ("c", b"c")]);
        assert_eq!((found[1].broken, found[0].entries.len()), (1, 0));
    }

    #[test]
    fn a_dictionary_bomb_is_cut_off() {
        let mut merged = Merged::new(1, 0.0, &not_bad);
        for round in 0..8 {
            let mut bomb = Dictionary::default();
            for nth in 0..1000 {
                let entry = Entry { value: vec![0; 100].into(), expiration: 1.0 };
                bomb.entries.insert(format!("{round}.{nth}"), entry);
            }
            merged.offer(0, &bomb.encode().into());
        }
        merged.offer(0, &Bytes::from_static(b"rubbish"));
        assert!(merged.bytes < MOST_BYTES);
        let found = merged.into_dictionaries();
        assert_eq!((found[0].entries.len(), found[0].broken), (MOST_ENTRIES, 1));
    }
}
