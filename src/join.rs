//! Join tokens: everything that is needed to enter a private swarm, in one word to hand around.
//!
//! `corolla1-` and, in unpadded base64url, a JSON object with a CRC-32 of it (4 bytes, big-endian) at its end. The
//! checksum is against slips of the mouse; it protects nothing. A token with a secret is a secret.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::wiring::SwarmSecret;

const MARK: &str = "corolla1-";
/// Letters of a token at most; a hundred addresses fit.
const LONGEST: usize = 16 << 10;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    /// Where the swarm is entered: addresses that end in `/p2p/` and a peer id.
    pub(crate) peers: Vec<String>,
    /// Under which name the blocks are announced.
    pub(crate) dht_prefix: Option<String>,
    /// The model's id, as clients name it.
    pub(crate) model: Option<String>,
    /// What its members have in common, and nobody else.
    pub(crate) secret: Option<SwarmSecret>,
}

/// The object in the token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    peers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peers, dht_prefix, model, secret } = self.clone();
        let written = Written { peers, prefix: dht_prefix, model, secret: secret.map(|secret| secret.to_hex()) };
        let mut bytes = serde_json::to_vec(&written).map_err(|_| fmt::Error)?;
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        write!(f, "{MARK}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some(code) = text.strip_prefix(MARK) else {
            let shown: String = text.chars().take(12).collect();
            return Err(format!(
                "\"{shown}...\" is no join token; `corolla bootstrap` prints one, it begins with {MARK}"
            ));
        };
        let damaged = || "the join token is damaged; copy it anew, as a whole".to_owned();
        if code.len() > LONGEST {
            return Err(damaged());
        }
        let bytes = BASE64URL_NOPAD.decode(code.as_bytes()).map_err(|_| damaged())?;
        let (json, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if crc32fast::hash(json) != u32::from_be_bytes(*sum) {
            return Err(damaged());
        }
        let Written { peers, prefix, model, secret } = serde_json::from_slice(json)
            .map_err(|fault| format!("the join token is not of this version of Corolla: {fault}"))?;
        if peers.is_empty() {
            return Err("the join token names no peer".to_owned());
        }
        let secret = secret.map(|secret| secret.parse::<SwarmSecret>()).transpose();
        let secret = secret.map_err(|fault| format!("the join token: {}", fault.context()))?;
        Ok(Self { peers, dht_prefix: prefix, model, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            peers: vec!["/ip4/10.0.0.1/tcp/31400/p2p/12D3KooWExample".to_owned()],
            dht_prefix: Some("bloom-petals".to_owned()),
            model: None,
            secret: Some(SwarmSecret::new([7; 32])),
        }
    }

    #[test]
    fn a_token_says_what_it_was_made_of() {
        let text = token().to_string();
        assert!(text.starts_with(MARK));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        let least = JoinToken { dht_prefix: None, secret: None, ..token() };
        assert_eq!(least.to_string().parse(), Ok(least));
        assert!(!format!("{:?}", token()).contains('7'), "a secret is not shown");
    }

    #[test]
    fn every_damage_is_noticed() {
        let text = token().to_string();
        for at in 0..text.len() {
            assert!(text[..at].parse::<JoinToken>().is_err(), "cut at {at}");
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(changed.parse::<JoinToken>().is_err(), "changed at {at}: {changed}");
        }
        assert!("".parse::<JoinToken>().is_err());
    }
}
