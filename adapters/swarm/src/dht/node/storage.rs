//! What a node keeps for others (wire protocol §3.4): values and dictionaries by key, each until it expires. Bounded in
//! keys, in entries of a key, in bytes, and in what one peer may take of them.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    time::Duration,
};

use bytes::Bytes;
use libp2p::PeerId;

use crate::wire::{
    key::DhtId,
    msgpack::{Limits, Value},
    record::{Dictionary, Entry},
};

/// Most bytes of one value; a server's record has some hundreds.
const MOST_VALUE: usize = 64 << 10;
/// Most bytes of a subkey: a peer id or a prefix.
const MOST_SUBKEY: usize = 512;
/// Most entries of one dictionary.
const MOST_ENTRIES: usize = 2048;
/// Most keys.
const MOST_KEYS: usize = 16_384;
/// Most bytes of everything.
const MOST_BYTES: usize = 64 << 20;
/// Part of the keys and of the bytes that one peer may fill, as a divisor.
const SHARES: usize = 8;
/// Part of the entries of one key that one peer may fill, as a divisor.
const SHARES_OF_KEY: usize = 4;
/// How far ahead an entry may expire. Servers announce themselves for minutes.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// What an entry takes besides its bytes.
const OVERHEAD: usize = 200;
/// What an entry, and a dictionary, take in an answer besides the bytes of subkeys and values.
const WRITTEN: usize = 32;
/// How often expired entries are looked for, in seconds.
const SWEEP: f64 = 10.0;

/// Where an entry goes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// It is the value of its key.
    Plain,
    /// It is one entry of the key's dictionary.
    Subkey(String),
    /// It is a whole dictionary.
    Whole,
}

impl Place {
    /// Reads a subkey tag; `None` for a subkey that is no text or too long.
    pub(super) fn read(tag: &[u8]) -> Option<Self> {
        match tag {
            [] => Some(Self::Whole),
            [0xc0] => Some(Self::Plain),
            tag => {
                let limits = Limits { bytes: MOST_SUBKEY + 8, values: 1, depth: 0 };
                let subkey = Value::decode_within(tag, limits).ok()?;
                let subkey = subkey.as_text().filter(|text| text.len() <= MOST_SUBKEY)?;
                Some(Self::Subkey(subkey.to_owned()))
            }
        }
    }
}

/// What is found under a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    Plain(Entry),
    Dictionary(Dictionary),
}

/// What one peer has stored.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// Its entries under each key.
    keys: HashMap<DhtId, usize>,
}

#[derive(Debug)]
struct Item {
    entry: Entry,
    owner: PeerId,
    cost: usize,
}

#[derive(Debug)]
enum Held {
    Plain(Item),
    Dictionary(BTreeMap<String, Item>),
}

impl Held {
    fn expiration(&self) -> f64 {
        match self {
            Self::Plain(item) => item.entry.expiration,
            Self::Dictionary(items) => items.values().map(|item| item.entry.expiration).fold(0.0, f64::max),
        }
    }

    fn items(&self) -> Vec<&Item> {
        match self {
            Self::Plain(item) => vec![item],
            Self::Dictionary(items) => items.values().collect(),
        }
    }
}

/// The store of a node.
#[derive(Debug, Default)]
pub(super) struct Storage {
    keys: HashMap<DhtId, Held>,
    bytes: usize,
    shares: HashMap<PeerId, Share>,
    swept: f64,
}

impl Storage {
    /// Takes an entry from `owner`, where it is new or expires later than what is held, and there is room. False: it
    /// was not taken.
    pub(super) fn store(&mut self, owner: PeerId, key: DhtId, place: &Place, entry: &Entry, now: f64) -> bool {
        self.sweep(now);
        match place {
            Place::Whole => match Dictionary::decode(&entry.value) {
                Ok(dictionary) if dictionary.broken == 0 && !dictionary.entries.is_empty() => {
                    let put = |(subkey, entry): (_, Entry)| self.put(owner, key, Some(subkey), &entry, now);
                    // All of them, whatever becomes of the first.
                    dictionary.entries.into_iter().map(put).fold(true, |all, one| all & one)
                }
                _ => false,
            },
            Place::Plain => self.put(owner, key, None, entry, now),
            Place::Subkey(subkey) => self.put(owner, key, Some(subkey.clone()), entry, now),
        }
    }

    /// Bytes that an answer with what is held under `key` takes at most.
    pub(super) fn size(&mut self, key: &DhtId, now: f64) -> usize {
        self.sweep(now);
        match self.keys.get(key) {
            None => 0,
            Some(Held::Plain(item)) => item.entry.value.len(),
            Some(Held::Dictionary(items)) => {
                let entry = |(subkey, item): (&String, &Item)| subkey.len() + item.entry.value.len() + WRITTEN;
                WRITTEN + items.iter().map(entry).sum::<usize>()
            }
        }
    }

    /// What is held under `key` and has not expired.
    pub(super) fn find(&mut self, key: &DhtId, now: f64) -> Option<Found> {
        self.sweep(now);
        match self.keys.get(key)? {
            Held::Plain(item) => (item.entry.expiration > now).then(|| Found::Plain(item.entry.clone())),
            Held::Dictionary(items) => {
                let living = items.iter().filter(|(_, item)| item.entry.expiration > now);
                let entries: BTreeMap<_, _> = living.map(|(key, item)| (key.clone(), item.entry.clone())).collect();
                (!entries.is_empty()).then_some(Found::Dictionary(Dictionary { entries, broken: 0 }))
            }
        }
    }

    fn put(&mut self, owner: PeerId, key: DhtId, subkey: Option<String>, entry: &Entry, now: f64) -> bool {
        let latest = now + LONGEST_LIFE.as_secs_f64();
        let lives = entry.expiration > now && entry.expiration <= latest; // not a NaN either
        if !lives || entry.value.len() > MOST_VALUE || subkey.as_ref().is_some_and(|s| s.len() > MOST_SUBKEY) {
            return false;
        }
        // Plain values and dictionaries displace each other by the latest expiration; within a dictionary each entry does.
        let held = self.keys.get(&key);
        let replaced: Vec<&Item> = match (held, &subkey) {
            (None, _) => Vec::new(),
            (Some(Held::Dictionary(items)), Some(subkey)) => match items.get(subkey) {
                Some(item) if item.entry.expiration >= entry.expiration => return false,
                None if items.len() >= MOST_ENTRIES => return false,
                item => item.into_iter().collect(),
            },
            (Some(held), _) if held.expiration() >= entry.expiration => return false,
            (Some(held), _) => held.items(),
        };
        let cost = entry.value.len() + subkey.as_ref().map_or(0, String::len) + OVERHEAD;
        let freed: usize = replaced.iter().map(|item| item.cost).sum();
        let own: Vec<usize> = replaced.iter().filter(|item| item.owner == owner).map(|item| item.cost).collect();
        let (used, keys, entries) = self.shares.get(&owner).map_or((0, 0, 0), |share| {
            (share.bytes, share.keys.len(), share.keys.get(&key).copied().unwrap_or_default())
        });
        let full = self.bytes - freed + cost > MOST_BYTES || (held.is_none() && self.keys.len() >= MOST_KEYS);
        let share_full = used - own.iter().sum::<usize>() + cost > MOST_BYTES / SHARES
            || (entries == 0 && keys >= MOST_KEYS / SHARES)
            || entries - own.len() >= MOST_ENTRIES / SHARES_OF_KEY;
        if full || share_full {
            return false;
        }
        // A view into a whole request would keep all of it.
        let entry = Entry { value: Bytes::copy_from_slice(&entry.value), expiration: entry.expiration };
        let item = Item { entry, owner, cost };
        self.bytes += cost;
        let share = self.shares.entry(owner).or_default();
        share.bytes += cost;
        *share.keys.entry(key).or_default() += 1;
        let old = match (self.keys.get_mut(&key), subkey) {
            (Some(Held::Dictionary(items)), Some(subkey)) => items.insert(subkey, item).into_iter().collect(),
            (_, subkey) => {
                let held = match subkey {
                    Some(subkey) => Held::Dictionary(BTreeMap::from([(subkey, item)])),
                    None => Held::Plain(item),
                };
                self.keys.insert(key, held).map_or_else(Vec::new, into_items)
            }
        };
        old.iter().for_each(|item| self.forget(key, item));
        true
    }

    /// Drops what has expired, now and then.
    fn sweep(&mut self, now: f64) {
        if now < self.swept + SWEEP && now >= self.swept {
            return;
        }
        self.swept = now;
        let mut old = Vec::new();
        self.keys.retain(|key, held| {
            if let Held::Dictionary(items) = held {
                let gone: Vec<String> =
                    items.iter().filter(|(_, item)| item.entry.expiration <= now).map(|(key, _)| key.clone()).collect();
                old.extend(gone.iter().filter_map(|subkey| Some((*key, items.remove(subkey)?))));
            }
            held.expiration() > now || {
                let rest = into_items(std::mem::replace(held, Held::Dictionary(BTreeMap::new())));
                old.extend(rest.into_iter().map(|item| (*key, item)));
                false
            }
        });
        old.iter().for_each(|(key, item)| self.forget(*key, item));
    }

    /// Gives back the room that an item under `key` took.
    fn forget(&mut self, key: DhtId, item: &Item) {
        self.bytes -= item.cost;
        let Some(share) = self.shares.get_mut(&item.owner) else { return };
        share.bytes -= item.cost;
        if let hash_map::Entry::Occupied(mut entries) = share.keys.entry(key) {
            *entries.get_mut() -= 1;
            if *entries.get() == 0 {
                entries.remove();
            }
        }
        if share.keys.is_empty() {
            self.shares.remove(&item.owner);
        }
    }
}

fn into_items(held: Held) -> Vec<Item> {
    match held {
        Held::Plain(item) => vec![item],
        Held::Dictionary(items) => items.into_values().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: f64 = 1.7e9;

    fn entry(value: &'static [u8], expiration: f64) -> Entry {
        Entry { value: Bytes::from_static(value), expiration }
    }

    fn key(nth: usize) -> DhtId {
        DhtId::of_bytes(&nth.to_le_bytes())
    }

    fn subkey(text: &str) -> Place {
        Place::Subkey(text.to_owned())
    }

    #[test]
    fn tags_are_those_of_the_specification() {
        assert_eq!(Place::read(&[]), Some(Place::Whole));
        assert_eq!(Place::read(&[0xc0]), Some(Place::Plain));
        assert_eq!(Place::read(b"\xa7QmPeerA"), Some(subkey("QmPeerA")));
        assert_eq!(Place::read(&[0x07]), None);
        assert_eq!(Place::read(&Value::from("x".repeat(600).as_str()).encode()), None);
    }

    #[test]
    fn the_entry_that_expires_later_stays() {
        let (mut storage, peer) = (Storage::default(), PeerId::random());
        assert!(storage.store(peer, key(0), &subkey("a"), &entry(b"1", NOW + 10.0), NOW));
        assert!(!storage.store(peer, key(0), &subkey("a"), &entry(b"0", NOW + 10.0), NOW));
        assert!(storage.store(peer, key(0), &subkey("a"), &entry(b"2", NOW + 20.0), NOW));
        assert!(storage.store(peer, key(0), &subkey("b"), &entry(b"b", NOW + 5.0), NOW));
        assert!(!storage.store(peer, key(0), &Place::Plain, &entry(b"plain", NOW + 19.0), NOW));
        let Some(Found::Dictionary(found)) = storage.find(&key(0), NOW) else { panic!("no dictionary") };
        let values: Vec<_> = found.entries.iter().map(|(k, e)| (k.as_str(), &e.value[..])).collect();
        assert_eq!(values, [("a", &b"2"[..]), ("b", b"b")]);
        assert!(storage.store(peer, key(0), &Place::Plain, &entry(b"plain", NOW + 30.0), NOW));
        assert_eq!(storage.find(&key(0), NOW), Some(Found::Plain(entry(b"plain", NOW + 30.0))));
        assert!(storage.store(peer, key(0), &subkey("c"), &entry(b"c", NOW + 31.0), NOW));
        assert_eq!(storage.bytes, 1 + 1 + OVERHEAD);
    }

    #[test]
    fn a_whole_dictionary_is_merged() {
        let (mut storage, peer) = (Storage::default(), PeerId::random());
        let mut whole = Dictionary::default();
        whole.entries.insert("a".into(), entry(b"1", NOW + 10.0));
        whole.entries.insert("b".into(), entry(b"2", NOW + 20.0));
        let value = Entry { value: whole.encode().into(), expiration: NOW + 20.0 };
        assert!(storage.store(peer, key(0), &Place::Whole, &value, NOW));
        assert!(!storage.store(peer, key(0), &Place::Whole, &value, NOW), "nothing of it is new");
        assert!(!storage.store(peer, key(0), &Place::Whole, &entry(b"rubbish", NOW + 20.0), NOW));
        assert_eq!(storage.find(&key(0), NOW), Some(Found::Dictionary(whole)));
    }

    #[test]
    fn what_expires_is_forgotten_and_gives_its_room_back() {
        let (mut storage, peer) = (Storage::default(), PeerId::random());
        for expiration in [NOW, NOW - 1.0, f64::NAN, f64::INFINITY, NOW + 25.0 * 3600.0] {
            assert!(!storage.store(peer, key(0), &Place::Plain, &entry(b"1", expiration), NOW), "{expiration}");
        }
        assert!(storage.store(peer, key(0), &Place::Plain, &entry(b"1", NOW + 10.0), NOW));
        assert!(storage.store(peer, key(1), &subkey("a"), &entry(b"1", NOW + 10.0), NOW));
        assert!(storage.store(peer, key(1), &subkey("b"), &entry(b"1", NOW + 40.0), NOW));
        assert_eq!(storage.find(&key(0), NOW + 10.0), None);
        storage.find(&key(0), NOW + 21.0);
        assert_eq!((storage.keys.len(), storage.bytes), (1, 2 + OVERHEAD));
        storage.find(&key(0), NOW + 51.0);
        assert!(storage.keys.is_empty() && storage.shares.is_empty() && storage.bytes == 0);
    }

    #[test]
    fn one_peer_cannot_take_the_room_of_the_others() {
        let (mut storage, hostile, honest) = (Storage::default(), PeerId::random(), PeerId::random());
        let large = Bytes::from(vec![0; MOST_VALUE]);
        let mut taken = 0;
        for nth in 0..2000 {
            let entry = Entry { value: large.clone(), expiration: NOW + 10.0 };
            taken += usize::from(storage.store(hostile, key(nth), &Place::Plain, &entry, NOW));
        }
        assert!(taken * MOST_VALUE <= MOST_BYTES / SHARES && taken > 100, "{taken}");
        let larger = Entry { value: vec![0; MOST_VALUE + 1].into(), expiration: NOW + 10.0 };
        assert!(!storage.store(honest, key(9999), &Place::Plain, &larger, NOW));
        assert!(storage.store(honest, key(9999), &Place::Plain, &entry(b"small", NOW + 1.0), NOW));
    }

    #[test]
    fn small_entries_of_one_peer_leave_keys_to_others() {
        let (mut storage, hostile, honest) = (Storage::default(), PeerId::random(), PeerId::random());
        let small = entry(b"", NOW + 30.0);
        let taken = (0..MOST_KEYS).filter(|nth| storage.store(hostile, key(*nth), &subkey("a"), &small, NOW)).count();
        assert_eq!(taken, MOST_KEYS / SHARES);
        assert!(storage.store(hostile, key(0), &subkey("b"), &small, NOW), "that key it has already");
        assert!(storage.store(honest, key(MOST_KEYS), &subkey("a"), &small, NOW));
        // What expires, or is displaced by others, no longer counts.
        assert!(storage.store(honest, key(1), &subkey("a"), &entry(b"", NOW + 40.0), NOW));
        assert!(storage.store(hostile, key(MOST_KEYS + 1), &subkey("a"), &small, NOW));
        assert!(!storage.store(hostile, key(MOST_KEYS + 2), &subkey("a"), &small, NOW));
        let later = NOW + 31.0;
        assert!(storage.store(hostile, key(MOST_KEYS + 2), &subkey("a"), &entry(b"", NOW + 60.0), later));
        assert_eq!((storage.shares.len(), storage.keys.len()), (2, 2));
    }

    #[test]
    fn the_entries_of_a_key_are_shared_out() {
        let mut storage = Storage::default();
        let (peers, small) = ([0; SHARES_OF_KEY + 1].map(|_| PeerId::random()), entry(b"", NOW + 1.0));
        let taken = peers.map(|peer| {
            let text = |nth: usize| format!("{peer}.{nth}");
            (0..1000).filter(|nth| storage.store(peer, key(0), &subkey(&text(*nth)), &small, NOW)).count()
        });
        let share = MOST_ENTRIES / SHARES_OF_KEY;
        assert_eq!(taken, [share, share, share, share, 0]);
        let first = format!("{}.0", peers[0]);
        assert!(storage.store(peers[0], key(0), &subkey(&first), &entry(b"", NOW + 2.0), NOW), "one that it has");
        assert!(storage.store(peers[0], key(1), &subkey("a"), &small, NOW), "another key");
    }

    #[test]
    fn the_size_of_an_answer_is_known_before_it_is_written() {
        let (mut storage, peer) = (Storage::default(), PeerId::random());
        assert_eq!(storage.size(&key(0), NOW), 0);
        for nth in 0..100 {
            let value = Entry { value: vec![7; nth * 600].into(), expiration: NOW + 1.0 };
            assert!(storage.store(peer, key(0), &subkey(&"x".repeat(nth)), &value, NOW));
            let (size, Some(Found::Dictionary(found))) = (storage.size(&key(0), NOW), storage.find(&key(0), NOW))
            else {
                panic!("no dictionary")
            };
            let written = found.encode().len();
            assert!(written <= size && size <= written + WRITTEN * (nth + 2), "{written} bytes, {size} foretold");
        }
    }
}
