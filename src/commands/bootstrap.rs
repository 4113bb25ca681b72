//! `corolla bootstrap`: the node through which others enter a swarm.

use std::path::PathBuf;

use super::{asked_to_stop, log, print};
use crate::{Stop, wiring_host};

/// Flags of `bootstrap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen, several with commas; /tcp/0 takes a free port.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',', default_value = "/ip4/127.0.0.1/tcp/31400")]
    listen: Vec<String>,
    /// File of the private key, made where there is none: the node keeps its name. Without this it has a new one each time.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Nodes of a swarm that is there already, several with commas; without this the node begins one of its own.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',')]
    initial_peers: Vec<String>,
}

/// Prints the addresses for `--initial-peers` of others, a line each, and stays until it is asked to stop.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    log("info");
    let started = wiring_host::bootstrap(&options.listen, options.identity, &options.initial_peers).await;
    let node = started.map_err(|fault| wiring_host::stop(&fault))?;
    print(&(node.addresses().join("\n") + "\n"))?;
    tracing::info!("the swarm can be entered");
    asked_to_stop().await;
    Ok(())
}
