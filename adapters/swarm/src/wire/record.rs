//! Values of the DHT (§3.5): dictionaries of subkeys, and who a found result names as neighbours.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    WireError,
    key::DhtId,
    msgpack::{EXT_DICTIONARY, Limits, Value},
    proto::FindResult,
};

const WHAT: &str = "DHT dictionary";
/// Most bytes of a subkey: a peer id or a prefix.
const MOST_SUBKEY: usize = 512;
/// Most entries kept of one dictionary; the public swarm has had hundreds of servers for a block.
const MOST_ENTRIES: usize = 10_000;

/// A subkey of a dictionary. Petals uses text only: a peer id, or a prefix.
pub type Subkey = String;

/// One entry of a dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value in msgpack.
    pub value: Bytes,
    /// Seconds since 1970.
    pub expiration: f64,
}

/// A dictionary as a node sent it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dictionary {
    /// What could be read.
    pub entries: BTreeMap<Subkey, Entry>,
    /// Entries that were broken and left out.
    pub broken: usize,
}

impl Dictionary {
    /// Reads a serialized dictionary. A broken entry costs that entry only.
    ///
    /// # Errors
    /// Where the whole is no dictionary.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let Value::Ext(EXT_DICTIONARY, payload) = Value::decode(bytes)? else {
            return Err(WireError::malformed(WHAT, "not of the dictionary's type"));
        };
        let payload = Value::decode_within(&payload, Limits { depth: 8, ..Limits::default() })?;
        let Some([_max_size, _latest, items]) = payload.items() else {
            return Err(WireError::malformed(WHAT, "not of three parts"));
        };
        let items = items.items().ok_or_else(|| WireError::malformed(WHAT, "no list of entries"))?;
        WireError::cap(WHAT, items.len(), MOST_ENTRIES)?;
        let mut dictionary = Self::default();
        for item in items {
            match entry(item) {
                Some((subkey, entry)) => dictionary.put(subkey, entry),
                None => dictionary.broken += 1,
            }
        }
        Ok(dictionary)
    }

    /// The dictionary as a node stores it. For peers of ours and for tests.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let latest = self.entries.values().map(|e| e.expiration).fold(0.0, f64::max);
        let items = self.entries.iter().map(|(subkey, entry)| {
            let value = Value::Bytes(entry.value.clone());
            Value::Array(vec![Value::Text(subkey.clone()), value, Value::Float(entry.expiration)])
        });
        let payload = [Value::Float(f64::INFINITY), Value::Float(latest), Value::Array(items.collect())];
        Value::Ext(EXT_DICTIONARY, Value::Array(payload.into()).encode().into()).encode()
    }

    /// Takes over what `other` knows better: for each subkey the entry that expires later.
    pub fn merge(&mut self, other: Self) {
        self.broken += other.broken;
        for (subkey, entry) in other.entries {
            self.put(subkey, entry);
        }
    }

    /// Drops what expires at `now` (seconds since 1970) or before.
    pub fn drop_expired(&mut self, now: f64) {
        self.entries.retain(|_, entry| entry.expiration > now);
    }

    fn put(&mut self, subkey: Subkey, entry: Entry) {
        let held = self.entries.get(&subkey);
        if held.is_none_or(|held| held.expiration < entry.expiration) {
            self.entries.insert(subkey, entry);
        }
    }
}

/// Reads `[subkey, value, expiration]`.
fn entry(item: &Value) -> Option<(Subkey, Entry)> {
    let [Value::Text(subkey), Value::Bytes(value), Value::Float(expiration)] = item.items()? else { return None };
    let sound = expiration.is_finite() && *expiration > 0.0 && subkey.len() <= MOST_SUBKEY;
    sound.then(|| (subkey.clone(), Entry { value: value.clone(), expiration: *expiration }))
}

impl FindResult {
    /// Nearest nodes and their peer ids (bytes); pairs that are broken are left out.
    pub fn neighbours(&self) -> impl Iterator<Item = (DhtId, &Bytes)> {
        let pairs = self.nearest_node_ids.iter().zip(&self.nearest_peer_ids);
        pairs.filter_map(|(node, peer)| {
            super::key::peer_text(peer).ok()?;
            Some((DhtId::from_wire(node).ok()?, peer))
        })
    }
}
