//! `corolla bootstrap`: the node through which others enter a swarm.

use std::path::PathBuf;

use super::{Stops, host_fault, log, print};
use crate::{
    Stop,
    join::{JoinToken, MOST_MEMBERS},
    secret,
    wiring::{
        Access, PeerId, Reach,
        host::{Bootstrap, BootstrapConfig},
    },
};

/// Flags of `bootstrap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen, several with commas; /tcp/0 takes a free port.
    #[arg(
        long,
        value_name = "MULTIADDRESS",
        value_delimiter = ',',
        default_value = "/ip4/127.0.0.1/tcp/31400",
        env = "COROLLA_BOOTSTRAP_LISTEN"
    )]
    listen: Vec<String>,
    /// File of the private key, made where there is none: the node keeps its name. Without this it has a new one each time.
    #[arg(long, value_name = "FILE", env = "COROLLA_BOOTSTRAP_IDENTITY")]
    identity: Option<PathBuf>,
    /// Nodes of a swarm that is there already, several with commas; without this the node begins one of its own.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',', env = "COROLLA_BOOTSTRAP_INITIAL_PEERS")]
    initial_peers: Vec<String>,
    /// Put into the join token: the model's name in the swarm.
    #[arg(long, value_name = "NAME", env = "COROLLA_BOOTSTRAP_DHT_PREFIX")]
    dht_prefix: Option<String>,
    /// Put into the join token: the model's id, by which clients find its files in their configuration.
    #[arg(long, value_name = "ID", env = "COROLLA_BOOTSTRAP_MODEL")]
    model: Option<String>,
    /// File with the swarm's secret, made where there is none: without it nobody gets in. It is put into the join token.
    #[arg(long, value_name = "FILE", env = "COROLLA_BOOTSTRAP_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    /// Peer ids of the only members, several with commas. They are put into the join token, with this node's own: whoever
    /// joins by it keeps to the same list.
    #[arg(long, value_name = "PEER_ID", value_delimiter = ',', env = "COROLLA_BOOTSTRAP_ALLOWED_PEERS")]
    allowed_peers: Option<Vec<PeerId>>,
}

/// Prints the addresses for `--initial-peers` of others, a line each, then the token for `--join`, and stays until it is
/// asked to stop.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    log("info");
    let members = options.allowed_peers.as_ref().map_or(0, Vec::len);
    if members >= MOST_MEMBERS {
        return Err(Stop::usage(format!(
            "--allowed-peers has {members} peer ids; with this node's own a join token holds {MOST_MEMBERS}"
        )));
    }
    let secret = options.secret_file.as_deref().map(secret::read_or_make).transpose().map_err(Stop::usage)?;
    let started = Bootstrap::start(BootstrapConfig {
        listen: options.listen,
        identity: options.identity,
        initial_peers: options.initial_peers,
        access: Access { secret: secret.clone(), allowed: options.allowed_peers.clone() },
        reach: Reach::Direct,
    });
    let node = started.await.map_err(|fault| host_fault(&fault))?;
    let addresses = node.addresses();
    let (peers, dht_prefix, model) = (reachable(&addresses), options.dht_prefix, options.model);
    let allowed = options.allowed_peers.map(|mut members| {
        members.push(node.peer_id());
        members
    });
    let token = JoinToken { peers, dht_prefix, model, secret, allowed };
    let mut stops = Stops::listen();
    print(&format!("{}\n{token}\n", addresses.join("\n")))?;
    tracing::info!("the swarm can be entered");
    stops.next().await;
    Ok(())
}

/// The addresses that lead here from other machines too, or where there are none, all.
fn reachable(addresses: &[String]) -> Vec<String> {
    let here = |address: &str| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    let outside: Vec<String> = addresses.iter().filter(|address| !here(address)).cloned().collect();
    if outside.is_empty() { addresses.to_vec() } else { outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_addresses_that_lead_here() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (here, there) = ("/ip4/127.0.0.1/tcp/1/p2p/Qm", "/ip4/10.0.0.7/tcp/1/p2p/Qm");
        assert_eq!(reachable(&texts(&[here, there])), [there]);
        assert_eq!(reachable(&texts(&[here])), [here]);
    }
}
