//! Keys that say who may ask, and from which pages.

use std::{net::SocketAddr, num::NonZeroU32};

use corolla_api::ApiKey;
use data_encoding::HEXLOWER_PERMISSIVE;

use super::{
    choice::Access,
    typed::{CorsRules, Key},
};

/// More keys than anybody writes into a file.
const MAX_KEYS: usize = 10_000;
const MAX_ORIGINS: usize = 1000;

/// Who may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Everybody, wherever the server listens.
    Open,
    /// Who brings one of these keys; everybody where there is none, which is only for this machine.
    Keys(Vec<ApiKey>),
}

impl Guard {
    /// The keys of which a request must bring one.
    ///
    /// # Errors
    /// Where others reach the server and nobody said that they may.
    pub(crate) fn keys(&self, listen: SocketAddr) -> Result<Vec<ApiKey>, String> {
        match self {
            Self::Open => Ok(Vec::new()),
            Self::Keys(keys) if keys.is_empty() && !listen.ip().to_canonical().is_loopback() => Err(format!(
                "listen = \"{listen}\" lets other machines ask, and there are no api_keys; make one with `corolla key`, or \
                 write access = \"open\" where everybody may ask"
            )),
            Self::Keys(keys) => Ok(keys.clone()),
        }
    }
}

/// # Errors
/// A sentence that names key, value and fix.
pub(super) fn check(access: Access, keys: Vec<Key>) -> Result<Guard, String> {
    match access {
        Access::Open if keys.is_empty() => Ok(Guard::Open),
        Access::Open => {
            Err("access = \"open\" lets everybody ask, and there are api_keys that nobody would need; leave one \
                             of the two out"
                .to_owned())
        }
        Access::Auto if keys.len() > MAX_KEYS => {
            Err(format!("api_keys has {} keys; there may be {MAX_KEYS}", keys.len()))
        }
        Access::Auto => {
            let mut known: Vec<ApiKey> = Vec::with_capacity(keys.len());
            for (at, key) in keys.into_iter().enumerate() {
                let key = check_key(at, key)?;
                if known.iter().any(|other| other.name == key.name || other.sha256 == key.sha256) {
                    return Err(format!(
                        "api_keys[{at}] ({}) stands twice, its name or its sha256; keep one",
                        key.name
                    ));
                }
                known.push(key);
            }
            Ok(Guard::Keys(known))
        }
    }
}

/// What a key may be called.
pub(crate) const NAMES: &str = "use up to 64 of letters, digits and - _ . @";

/// Whether a key may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

fn check_key(at: usize, key: Key) -> Result<ApiKey, String> {
    let Key { name, sha256, requests_per_minute, concurrent } = key;
    if !is_name(&name) {
        return Err(format!("api_keys[{at}].name = \"{name}\" is no name; {NAMES}"));
    }
    let digest = HEXLOWER_PERMISSIVE.decode(sha256.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    // What was typed may be the key itself, so it is not repeated.
    let sha256 = digest.ok_or_else(|| {
        format!(
            "api_keys[{at}].sha256 ({name}) is no SHA-256; write its 64 hexadecimal digits, as `corolla key` prints them, \
             not the key itself"
        )
    })?;
    let requests_per_minute = requests_per_minute
        .map(|rate| {
            let fault = "is out of range; it may be 1 to 4294967295, or be left out";
            NonZeroU32::new(rate).ok_or_else(|| format!("api_keys[{at}].requests_per_minute = {rate} {fault}"))
        })
        .transpose()?;
    if let Some(number) = concurrent.filter(|number| !(1..=100_000).contains(number)) {
        return Err(format!(
            "api_keys[{at}].concurrent = {number} is out of range; it may be 1 to 100000, or be left out"
        ));
    }
    Ok(ApiKey { name, sha256, requests_per_minute, concurrent })
}

/// # Errors
/// A sentence that names key, value and fix.
pub(super) fn check_cors(rules: CorsRules) -> Result<Vec<String>, String> {
    if rules.origins.len() > MAX_ORIGINS {
        return Err(format!("cors.origins has {} origins; there may be {MAX_ORIGINS}", rules.origins.len()));
    }
    match rules.origins.iter().find(|origin| !is_origin(origin)) {
        None => Ok(rules.origins),
        Some(wrong) => Err(format!(
            "cors.origins: \"{wrong}\" is no origin; write it as a browser does, such as \"https://chat.example.org\" or \
             \"http://localhost:3000\", without a path, or \"*\" for every page"
        )),
    }
}

/// Scheme, host and port as a browser sends them: in lower case, nothing after the port.
fn is_origin(text: &str) -> bool {
    let host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
    text == "*"
        || text.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty()
                && scheme.chars().all(|c| c.is_ascii_lowercase() || "+-".contains(c))
                && !rest.is_empty()
                && rest.len() <= 255
                && rest.chars().all(host)
        })
}
