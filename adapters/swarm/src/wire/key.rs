//! Names in the DHT: 160-bit ids, the ids of keys (§3.2), and peer ids as text (§1.3).

use std::fmt;

use sha1::{Digest, Sha1};

use super::{WireError, msgpack::Value};

const WHAT: &str = "DHT id";
const PEER: &str = "peer id";
/// Most bytes of a peer id: 36 for Ed25519, 34 for a hash; a multihash of 64 bytes is the longest in use.
const MOST_PEER_BYTES: usize = 66;
const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// A 160-bit id, big-endian; ordered as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DhtId(pub [u8; 20]);

impl DhtId {
    /// The id of a text key: SHA-1 of its msgpack form.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        Self::of_bytes(&Value::from(key).encode())
    }

    /// The id of a key that is bytes already: their SHA-1.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha1::digest(bytes).into())
    }

    /// Reads an id off the wire.
    ///
    /// # Errors
    /// For other than 20 bytes.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, WireError> {
        let id = bytes.try_into().map_err(|_| WireError::malformed(WHAT, format!("{} bytes long", bytes.len())))?;
        Ok(Self(id))
    }

    /// How far two ids are apart: XOR, ordered as a number.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Self {
        let mut apart = self.0;
        apart.iter_mut().zip(other.0).for_each(|(a, b)| *a ^= b);
        Self(apart)
    }
}

impl fmt::Debug for DhtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The id of a text key.
#[must_use]
pub fn dht_id(key: &str) -> DhtId {
    DhtId::of_key(key)
}

/// A peer id as hivemind writes it: base58btc of the multihash.
///
/// # Errors
/// Where the bytes are no multihash of a key (identity or SHA-2-256).
pub fn peer_text(bytes: &[u8]) -> Result<String, WireError> {
    check_multihash(bytes)?;
    let mut digits: Vec<u8> = Vec::with_capacity(bytes.len() * 2); // base 58, least significant first
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    let digits = std::iter::repeat_n(0, zeros).chain(digits.into_iter().rev());
    Ok(digits.map(|digit| char::from(ALPHABET[usize::from(digit)])).collect())
}

/// The bytes of a peer id written in base58btc.
///
/// # Errors
/// Where the text is no base58, or what it spells is no multihash of a key.
pub fn peer_bytes(text: &str) -> Result<Vec<u8>, WireError> {
    WireError::cap(PEER, text.len(), MOST_PEER_BYTES * 3 / 2)?;
    let mut bytes: Vec<u8> = Vec::with_capacity(text.len()); // least significant first
    for letter in text.bytes() {
        let digit = ALPHABET.iter().position(|l| *l == letter);
        let mut carry = digit.ok_or_else(|| WireError::malformed(PEER, "not base58"))? as u32;
        for byte in &mut bytes {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        while carry > 0 {
            bytes.push(carry as u8);
            carry >>= 8;
        }
    }
    bytes.extend(text.bytes().take_while(|l| *l == b'1').map(|_| 0));
    bytes.reverse();
    check_multihash(&bytes)?;
    Ok(bytes)
}

/// A peer id is the identity hash of a short public key, or the SHA-2-256 of a long one.
fn check_multihash(bytes: &[u8]) -> Result<(), WireError> {
    WireError::cap(PEER, bytes.len(), MOST_PEER_BYTES)?;
    match bytes {
        [0x12, 0x20, digest @ ..] if digest.len() == 32 => Ok(()),
        [0x00, length, key @ ..] if key.len() == usize::from(*length) && !key.is_empty() => Ok(()),
        _ => Err(WireError::malformed(PEER, "neither the identity nor the SHA-2-256 of a key")),
    }
}
