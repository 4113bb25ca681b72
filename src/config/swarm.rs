//! How a swarm is reached, and how blocks are served to it.

use std::{path::PathBuf, time::Duration};

use corolla_domain::model::ModelId;

use super::{
    choice::{self, Blocks},
    typed,
};
use crate::{
    join::JoinToken,
    secret,
    wiring::{Access, PUBLIC_INITIAL_PEERS, PeerId, Pin, Reach, check_pins},
};

/// How to reach a Petals swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwarmSettings {
    /// Addresses with `/p2p/` at their end; `None` is the public swarm.
    pub(crate) initial_peers: Option<Vec<String>>,
    /// Where the client listens, for servers behind a NAT that meet it half-way; empty: nowhere.
    pub(crate) listen: Vec<String>,
    /// Under which name the blocks are announced; `None` is the rule of the model's family.
    pub(crate) dht_prefix: Option<String>,
    /// With whom there is any connection at all.
    pub(crate) access: Access,
    /// Peer ids that may be used; empty is everybody.
    pub(crate) allowed_servers: Vec<String>,
    /// Peer ids that are never used.
    pub(crate) blocked_servers: Vec<String>,
    /// Blocks that are run by one server only.
    pub(crate) pinned_servers: Vec<Pin>,
    /// How long a server may take for one answer.
    pub(crate) request_timeout: Duration,
    /// File with this client's key; `None` is a new one each time.
    pub(crate) identity: Option<PathBuf>,
}

/// How the blocks that run here are served to the swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSettings {
    /// Where the server listens.
    pub(crate) listen: Vec<String>,
    /// File with the server's key; `None` is a new one each time.
    pub(crate) identity: Option<PathBuf>,
    /// Whether others reach it.
    pub(crate) reach: Reach,
    /// What the server is called in lists.
    pub(crate) public_name: Option<String>,
    /// How many blocks it takes where it chooses them; `None`: as many as there is memory for.
    pub(crate) num_blocks: Option<usize>,
    /// How often it announces itself.
    pub(crate) update_period: Duration,
    /// How long open sessions may go on after it was asked to stop.
    pub(crate) drain: Duration,
}

impl SwarmSettings {
    /// The token by which others host blocks of `model` in this swarm. `None` where a secret or a list of members keeps
    /// strangers out: whom to tell is then for those to say who run it.
    pub(crate) fn open_token(&self, model: &ModelId) -> Option<JoinToken> {
        if self.access != Access::default() {
            return None;
        }
        let public = || PUBLIC_INITIAL_PEERS.iter().map(ToString::to_string).collect();
        Some(JoinToken {
            peers: self.initial_peers.clone().unwrap_or_else(public),
            dht_prefix: self.dht_prefix.clone(),
            model: Some(model.0.clone()),
            secret: None,
            allowed: None,
        })
    }
}

/// What is typed of a swarm, checked.
pub(super) fn check(at: usize, swarm: typed::Swarm) -> Result<SwarmSettings, String> {
    let key = |name: &str| format!("models[{at}].swarm.{name}");
    for address in swarm.initial_peers.iter().flatten() {
        if !address.starts_with('/') || !address.contains("/p2p/") {
            let key = key("initial_peers");
            return Err(format!(
                "{key} has \"{address}\", which names no peer; write addresses such as \
                 \"/ip4/127.0.0.1/tcp/31400/p2p/Qm...\""
            ));
        }
    }
    if let Some(address) = swarm.listen.iter().find(|address| !address.starts_with('/')) {
        let key = key("listen");
        return Err(format!("{key} has \"{address}\"; write addresses such as \"/ip4/0.0.0.0/tcp/0\""));
    }
    if swarm.initial_peers.as_ref().is_some_and(Vec::is_empty) {
        return Err(format!("{} is empty; leave it out for the public swarm", key("initial_peers")));
    }
    let join = swarm.join.as_deref().map(str::parse::<JoinToken>).transpose();
    let token = join.map_err(|fault| format!("{}: {fault}", key("join")))?;
    let (peers, prefix, secret, members) = token
        .map_or((None, None, None, None), |token| (Some(token.peers), token.dht_prefix, token.secret, token.allowed));
    let from_file = swarm.secret_file.as_deref().map(secret::read).transpose();
    let from_file = from_file.map_err(|fault| format!("{}: {fault}", key("secret_file")))?;
    let allowed = swarm.allowed_peers.as_ref().map(|ids| ids.iter().map(|id| peer(id)).collect::<Result<Vec<_>, _>>());
    let allowed = allowed.transpose().map_err(|fault| format!("{} has {fault}", key("allowed_peers")))?;
    let access = Access { secret: from_file.or(secret), allowed: allowed.or(members) };
    let request_timeout = time(&key("request_timeout"), swarm.request_timeout.as_deref(), 180, 1)?;
    let pins = swarm.pinned_servers.iter().map(|text| text.parse()).collect::<Result<Vec<Pin>, _>>();
    let pinned_servers = pins.and_then(|pins| check_pins(&pins).map(|()| pins));
    let pinned_servers = pinned_servers.map_err(|fault| format!("{}: {}", key("pinned_servers"), fault.context()))?;
    let shut_out = |pin: &&Pin| {
        let names = |list: &[String]| list.contains(&pin.peer);
        names(&swarm.blocked_servers) || !(swarm.allowed_servers.is_empty() || names(&swarm.allowed_servers))
    };
    if let Some(pin) = pinned_servers.iter().find(shut_out) {
        let (key, allowed, blocked) = (key("pinned_servers"), key("allowed_servers"), key("blocked_servers"));
        return Err(format!(
            "{key} has \"{pin}\", whose server must not be used; add it to {allowed}, take it out of {blocked}, or drop the pin"
        ));
    }
    Ok(SwarmSettings {
        initial_peers: swarm.initial_peers.or(peers),
        listen: swarm.listen,
        dht_prefix: swarm.dht_prefix.or(prefix),
        access,
        allowed_servers: swarm.allowed_servers,
        blocked_servers: swarm.blocked_servers,
        pinned_servers,
        request_timeout,
        identity: swarm.identity,
    })
}

/// What is typed of a server of blocks, checked.
pub(super) fn check_host(
    at: usize,
    blocks: Blocks,
    swarm: &SwarmSettings,
    host: typed::Host,
) -> Result<HostSettings, String> {
    let key = |name: &str| format!("models[{at}].host.{name}");
    if blocks == Blocks::Swarm {
        return Err(format!(
            "models[{at}].host serves the blocks that run here, and with blocks = \"swarm\" there are none; leave it out, \
             or write block_range = \"0:2\" for some of them"
        ));
    }
    // Whoever serves by mistake serves strangers, so the public swarm is not a default here.
    if swarm.initial_peers.is_none() {
        return Err(format!(
            "models[{at}].host needs a swarm to serve; give it in models[{at}].swarm: join = a token that `corolla bootstrap` \
             prints (--join), or initial_peers (--initial-peers)"
        ));
    }
    let listen = host.listen.unwrap_or_else(|| vec!["/ip4/127.0.0.1/tcp/0".to_owned()]);
    if let Some(text) = listen.iter().find(|text| !text.starts_with('/')) {
        return Err(format!(
            "{} has \"{text}\", which is no address; write addresses such as \"/ip4/0.0.0.0/tcp/31401\"",
            key("listen")
        ));
    }
    if host.num_blocks == Some(0) {
        return Err(format!(
            "{} = 0 serves nothing; leave it out for as many as there is memory for",
            key("num_blocks")
        ));
    }
    if listen.is_empty() {
        return Err(format!("{} is empty; a server must listen somewhere", key("listen")));
    }
    Ok(HostSettings {
        listen,
        identity: host.identity,
        reach: match host.reach {
            choice::Reach::Ask => Reach::Ask,
            choice::Reach::Direct => Reach::Direct,
            choice::Reach::Relayed => Reach::Relayed,
        },
        public_name: host.public_name,
        num_blocks: host.num_blocks,
        update_period: time(&key("update_period"), host.update_period.as_deref(), 120, 1)?,
        drain: time(&key("drain"), host.drain.as_deref(), 30, 0)?,
    })
}

fn peer(id: &str) -> Result<PeerId, String> {
    id.parse().map_err(|_| format!("\"{id}\", which is no peer id; write one such as \"12D3KooW...\" or \"Qm...\""))
}

/// A time in words, such as `30s`; a bare number is seconds.
fn time(key: &str, text: Option<&str>, default: u64, least: u64) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(Duration::from_secs(default)) };
    let read = text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text)).ok();
    read.filter(|wait| (Duration::from_secs(least)..=Duration::from_secs(3600)).contains(wait))
        .ok_or_else(|| format!("{key} = \"{text}\" is no time; write {least}s to 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::SwarmSecret;

    const PEER: &str = "/ip4/10.0.0.1/tcp/31400/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn token() -> JoinToken {
        JoinToken {
            peers: vec![PEER.to_owned()],
            dht_prefix: Some("garden".to_owned()),
            model: Some("m".to_owned()),
            secret: None,
            allowed: None,
        }
    }

    #[test]
    fn a_swarm_that_is_open_is_told_on_and_a_closed_one_never() {
        let told = |swarm: typed::Swarm| check(0, swarm).unwrap().open_token(&"m".into());
        let joined = |token: JoinToken| typed::Swarm { join: Some(token.to_string()), ..typed::Swarm::default() };
        assert_eq!(told(joined(token())), Some(token()));
        let typed = typed::Swarm {
            initial_peers: Some(vec![PEER.to_owned()]),
            dht_prefix: Some("garden".to_owned()),
            ..typed::Swarm::default()
        };
        assert_eq!(told(typed), Some(token()));
        assert_eq!(told(joined(JoinToken { secret: Some(SwarmSecret::new([7; 32])), ..token() })), None);
        assert_eq!(told(joined(JoinToken { allowed: Some(vec![PeerId::random()]), ..token() })), None);
        let peers = told(typed::Swarm::default()).unwrap().peers;
        assert_eq!(peers, PUBLIC_INITIAL_PEERS);
    }
}
