//! Join tokens: everything that is needed to enter a private swarm, in one word to hand around.
//!
//! `corolla1-` and, in unpadded base64url, a JSON object with a CRC-32 of it (4 bytes, big-endian) at its end. The
//! checksum is against slips of the mouse; it protects nothing. A token with a secret is a secret.

use std::{collections::BTreeSet, fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::wiring::{PeerId, SwarmSecret};

const MARK: &str = "corolla1-";
/// Letters of a token at most; a hundred addresses and as many members as may be fit.
const LONGEST: usize = 64 << 10;
/// Members that a token lists at most.
pub(crate) const MOST_MEMBERS: usize = 512;

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
    /// Its only members; `None`: whoever likes.
    pub(crate) allowed: Option<Vec<PeerId>>,
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
    /// In order and each once, so that the same members make the same token.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<Vec<String>>,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peers, dht_prefix, model, secret, allowed } = self.clone();
        let secret = secret.map(|secret| secret.to_hex());
        let allowed = allowed.map(|members| {
            let members: BTreeSet<String> = members.iter().map(ToString::to_string).collect();
            members.into_iter().collect()
        });
        let written = Written { peers, prefix: dht_prefix, model, secret, allowed };
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
        let Written { peers, prefix, model, secret, allowed } = serde_json::from_slice(json)
            .map_err(|fault| format!("the join token is not of this version of Corolla: {fault}"))?;
        if peers.is_empty() {
            return Err("the join token names no peer".to_owned());
        }
        let secret = secret.map(|secret| secret.parse::<SwarmSecret>()).transpose();
        let secret = secret.map_err(|fault| format!("the join token: {}", fault.context()))?;
        let member = |id: String| {
            id.parse::<PeerId>().map_err(|_| format!("the join token lists \"{id}\", which is no peer id"))
        };
        let allowed = allowed.map(|ids| ids.into_iter().map(member).collect::<Result<Vec<_>, _>>()).transpose()?;
        Ok(Self { peers, dht_prefix: prefix, model, secret, allowed })
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
            allowed: Some(members()),
        }
    }

    /// Two peer ids, in the order in which tokens list them.
    fn members() -> Vec<PeerId> {
        ["12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"]
            .map(|id| id.parse().unwrap())
            .to_vec()
    }

    #[test]
    fn a_token_says_what_it_was_made_of() {
        let text = token().to_string();
        assert!(text.starts_with(MARK));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        let least = JoinToken { dht_prefix: None, secret: None, allowed: None, ..token() };
        assert_eq!(least.to_string().parse(), Ok(least));
        let shown = format!("{:?}", JoinToken { allowed: None, ..token() });
        assert!(!shown.contains('7'), "a secret is not shown");
    }

    #[test]
    fn the_same_members_make_the_same_token() {
        let [first, second] = [0, 1].map(|nth| members()[nth]);
        let shuffled = JoinToken { allowed: Some(vec![second, first, second]), ..token() };
        assert_eq!(shuffled.to_string(), token().to_string());
        assert_eq!(shuffled.to_string().parse(), Ok(token()));
    }

    fn written(json: &str) -> String {
        let mut bytes = json.as_bytes().to_vec();
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        format!("{MARK}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    #[test]
    fn as_many_members_as_may_be_fit() {
        let address = format!("/ip6/2001:db8:1111:2222:3333:4444:5555:6666/udp/31400/quic-v1/p2p/{}", members()[0]);
        let members = (0..MOST_MEMBERS).map(|_| PeerId::random()).collect();
        let large = JoinToken { peers: vec![address; 100], allowed: Some(members), ..token() };
        assert!(large.to_string().parse::<JoinToken>().is_ok());
    }

    #[test]
    fn tokens_without_a_list_are_read_as_before_and_those_beyond_this_version_are_not() {
        let old = written(r#"{"peers":["/ip4/10.0.0.1/tcp/31400/p2p/12D3KooWExample"],"prefix":"bloom-petals"}"#);
        let token = JoinToken { secret: None, allowed: None, ..token() };
        assert_eq!((old.parse(), token.to_string()), (Ok(token), old));
        for (json, why) in [
            (r#"{"peers":["/p2p/a"],"allowed":["me"]}"#, "\"me\", which is no peer id"),
            (r#"{"peers":["/p2p/a"],"denied":[]}"#, "not of this version"),
        ] {
            let fault = written(json).parse::<JoinToken>().unwrap_err();
            assert!(fault.contains(why), "{fault}");
        }
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
