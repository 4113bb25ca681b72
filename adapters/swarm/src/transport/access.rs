//! Who may enter: a secret that every member has, or a list of the members.

use std::{fmt, str::FromStr};

use corolla_domain::ports::PortError;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, pnet::PreSharedKey};

const BYTES: usize = 32;

/// With whom a host has to do at all. The default is everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The private network of all who have this secret (libp2p's pnet): TCP only, and never together with stock Python
    /// members, which know no such thing.
    pub secret: Option<SwarmSecret>,
    /// The only peers that connections are kept with, of either direction. `None`: all.
    pub allowed: Option<Vec<PeerId>>,
}

impl Access {
    /// Whether `peer` may be talked to.
    #[must_use]
    pub fn admits(&self, peer: &PeerId) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(peer))
    }

    /// Refuses an address of one's own settings that could never be used.
    pub(super) fn check(&self, what: &str, address: &Multiaddr) -> Result<(), PortError> {
        if self.secret.is_some() && over_udp(address) {
            let text =
                format!("{what} {address} is not TCP: with a swarm secret only TCP can be used, QUIC knows none");
            return Err(PortError::invalid(text));
        }
        Ok(())
    }

    /// Refuses an initial peer that could never be used.
    pub(super) fn check_peer(&self, peer: PeerId, address: &Multiaddr) -> Result<(), PortError> {
        if !self.admits(&peer) {
            return Err(PortError::invalid(format!("initial peer {address} is not in the list of allowed peers")));
        }
        self.check("initial peer", address)
    }

    /// Why somebody who is there may not be understood.
    pub(super) fn misunderstood(&self) -> &'static str {
        if self.secret.is_some() {
            "it seems to have another swarm secret, or none"
        } else {
            "it seems to be in a private swarm, whose secret is missing here"
        }
    }

    /// Why somebody may not answer: two who differ in their secret wait for each other in vain.
    pub(super) fn unanswered(&self) -> &'static str {
        if self.secret.is_some() {
            "it is gone, or has another swarm secret, or none"
        } else {
            "it is gone, or in a private swarm, whose secret is missing here"
        }
    }

    /// Whether an address that others named can be dialled.
    pub(super) fn dials(&self, address: &Multiaddr) -> bool {
        self.secret.is_none() || !over_udp(address)
    }
}

fn over_udp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Udp(_) | Protocol::Quic | Protocol::QuicV1))
}

/// The 32 bytes that every member of a private swarm has. Printed it shows nothing of itself; [`to_hex`](Self::to_hex)
/// gives it away.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmSecret([u8; BYTES]);

impl SwarmSecret {
    /// These very bytes.
    #[must_use]
    pub fn new(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    /// A fresh one from the system's random numbers.
    ///
    /// # Errors
    /// `Internal` where the system has none.
    pub fn generate() -> Result<Self, PortError> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes)
            .map_err(|e| PortError::internal(format!("the system gives no random numbers: {e}")))?;
        Ok(Self(bytes))
    }

    /// 64 hexadecimal digits, for whoever hands it on.
    #[must_use]
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    pub(super) fn key(&self) -> PreSharedKey {
        PreSharedKey::new(self.0)
    }
}

impl fmt::Debug for SwarmSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SwarmSecret(..)")
    }
}

/// Reads 64 hexadecimal digits, or 32 bytes in base64 of either alphabet, padded or not. Errors do not repeat the text.
impl FromStr for SwarmSecret {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let text = text.trim();
        let bytes = if text.len() == 2 * BYTES {
            HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|e| {
                PortError::invalid(format!(
                    "a swarm secret of 64 characters is hexadecimal: character {}",
                    e.position + 1
                ))
            })?
        } else {
            let bare = text.trim_end_matches('=');
            let url = bare.contains(['-', '_']);
            let alphabet = if url { BASE64URL_NOPAD } else { BASE64_NOPAD };
            alphabet.decode(bare.as_bytes()).map_err(|_| {
                let length = text.chars().count();
                PortError::invalid(format!(
                    "a swarm secret is 64 hexadecimal digits or 32 bytes in base64 (44 characters); this is neither, it has \
                     {length} characters"
                ))
            })?
        };
        let length = bytes.len();
        let bytes = <[u8; BYTES]>::try_from(bytes)
            .map_err(|_| PortError::invalid(format!("a swarm secret has 32 bytes, this one {length}")))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_in_each_form() {
        let secret = SwarmSecret::new(std::array::from_fn(|i| (i * 37 + 251) as u8));
        let hex = secret.to_hex();
        let forms = [
            hex.clone(),
            hex.to_uppercase(),
            format!(" {hex}\n"),
            data_encoding::BASE64.encode(&secret.0),
            BASE64_NOPAD.encode(&secret.0),
            data_encoding::BASE64URL.encode(&secret.0),
            BASE64URL_NOPAD.encode(&secret.0),
        ];
        for form in forms {
            assert_eq!(form.parse::<SwarmSecret>().unwrap(), secret, "{form}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_repeated() {
        let hex = "0123456789abcdef".repeat(4);
        let broken = hex.replacen('f', "g", 1);
        for (text, why) in [
            ("", "32 bytes, this one 0"),
            ("mellon", "neither"),
            ("c2VjcmV0", "32 bytes, this one 6"),
            (broken.as_str(), "hexadecimal: character 16"),
            (&hex[..62], "it has 62 characters"),
        ] {
            let error = text.parse::<SwarmSecret>().unwrap_err();
            assert!(error.context().contains(why), "{text:?}: {error}");
            assert!(text.is_empty() || !error.context().contains(text), "{error}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = SwarmSecret::generate().unwrap();
        assert_ne!(secret, SwarmSecret::generate().unwrap());
        let access = Access { secret: Some(secret.clone()), allowed: None };
        assert_eq!(format!("{access:?}"), "Access { secret: Some(SwarmSecret(..)), allowed: None }");
    }
}
