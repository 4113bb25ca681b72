//! `corolla host`: blocks of a model for a Petals swarm.

use std::{path::PathBuf, str::FromStr, time::Duration};

use super::{Compute, ConfigFile, Stops, host_fault, interrupted, interrupted_again, log, planned, print};
use crate::{
    Stop,
    config::{HostFlags, Overrides, TypedReach},
    wiring::{Way, host},
};

/// Flags of `host`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// The model: a GGUF file, or a folder in Hugging Face layout; only the blocks that are served are read. Without this,
    /// the model of the configuration file that has a [models.host] table.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The swarm, by the token that `corolla bootstrap` prints.
    #[arg(long, value_name = "TOKEN", env = "COROLLA_JOIN", hide_env_values = true)]
    join: Option<String>,
    /// Blocks to serve, e.g. 0:12 for the first twelve, and no others. Without this the server takes those that the swarm
    /// needs most, and moves where it is needed more.
    #[arg(long, value_name = "FIRST:END")]
    blocks: Option<String>,
    /// How many blocks to serve. auto: as many as there is memory for. [default: auto]
    #[arg(long, value_name = "N|auto", conflicts_with = "blocks")]
    num_blocks: Option<Count>,
    /// Measure how fast blocks and network are, though that is known from before.
    #[arg(long)]
    measure: bool,
    /// Where the swarm is entered, several with commas, in place of a token.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',')]
    initial_peers: Option<Vec<String>>,
    /// The model's name in the swarm; clients must ask for the same.
    #[arg(long, value_name = "NAME")]
    dht_prefix: Option<String>,
    /// File with the swarm's secret, where no token carries it.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Peer ids of the only members, several with commas.
    #[arg(long, value_name = "PEER_ID", value_delimiter = ',')]
    allowed_peers: Option<Vec<String>>,
    /// Where to listen, several with commas; /tcp/0 takes a free port. [default: /ip4/127.0.0.1/tcp/0]
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',')]
    listen: Option<Vec<String>>,
    #[command(flatten)]
    compute: Compute,
    /// File of the private key, made where there is none: the server keeps its name. Without this it has a new one each time.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Positions that the sessions of all clients may reserve together, over all blocks. [default: 16384 where heads share
    /// keys and values, else 4096]
    #[arg(long, value_name = "N")]
    attn_cache_tokens: Option<usize>,
    /// Memory that they may reserve together, over all blocks, in place of a number of positions: e.g. 2GiB.
    #[arg(long, value_name = "SIZE", conflicts_with = "attn_cache_tokens")]
    attn_cache_bytes: Option<String>,
    /// Do not ask others whether they reach this server: they do.
    #[arg(long, conflicts_with = "relayed")]
    skip_reachability_check: bool,
    /// Do not ask others either: they do not reach this server, it needs a relay.
    #[arg(long)]
    relayed: bool,
    /// What the server is called in lists.
    #[arg(long, value_name = "NAME")]
    public_name: Option<String>,
    /// Threads to compute with; without this one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Time between announcements, e.g. 120s. A server that dies is forgotten after two of them. [default: 120s]
    #[arg(long, value_name = "TIME")]
    update_period: Option<String>,
    /// How long open sessions may go on after the server was asked to stop, or moves to other blocks. [default: 30s]
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
}

/// How many blocks, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// As many as there is memory for.
    Auto,
    /// So many, at least 1.
    Blocks(usize),
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(0) | Err(_) => Err("a number of blocks from 1 on, or auto".to_owned()),
            Ok(count) => Ok(Self::Blocks(count)),
        }
    }
}

impl Options {
    fn overrides(self) -> Result<Overrides, Stop> {
        let usual = |path: &PathBuf| host::usual_cache_tokens(path).map_err(Stop::usage);
        let cache_tokens = match (self.attn_cache_tokens, &self.model) {
            (None, Some(path)) if self.attn_cache_bytes.is_none() => Some(usual(path)?),
            (asked, _) => asked,
        };
        Ok(Overrides {
            path: self.model,
            join: self.join,
            host: Some(HostFlags {
                blocks: self.blocks,
                num_blocks: self.num_blocks.map(|count| match count {
                    Count::Auto => None,
                    Count::Blocks(count) => Some(count),
                }),
                initial_peers: self.initial_peers,
                dht_prefix: self.dht_prefix,
                secret_file: self.secret_file,
                allowed_peers: self.allowed_peers,
                listen: self.listen,
                identity: self.identity,
                cache_tokens,
                cache_bytes: self.attn_cache_bytes,
                reach: match (self.skip_reachability_check, self.relayed) {
                    (true, _) => Some(TypedReach::Direct),
                    (_, true) => Some(TypedReach::Relayed),
                    _ => None,
                },
                public_name: self.public_name,
                threads: self.threads,
                update_period: self.update_period,
                drain: self.drain,
            }),
            ..self.compute.overrides()
        })
    }
}

/// Enters the swarm, takes a place in it, serves until it is asked to stop, and says goodbye.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let (file, measure, overrides) = (options.file.clone(), options.measure, options.overrides()?);
    let (_, mut plans) = planned(&file, &overrides).await?;
    let (Some(plan), true) = (plans.pop(), plans.is_empty()) else {
        return Err(Stop::failure("one model is hosted at a time"));
    };
    let fault = |fault| host_fault(&fault);
    let drain = plan.settings.host.as_ref().map_or(Duration::ZERO, |host| host.drain);
    let plan = host::plan(plan, measure).map_err(fault)?;
    log("info");
    tracing::info!(model = plan.model.about, reason = plan.model.choice.reason, "hosting");
    let mut stops = Stops::listen();
    let entering = async {
        let member = host::enter(&plan).await.map_err(fault)?;
        let reachability = member.reachability();
        match reachability.way {
            Way::Direct { .. } => tracing::info!(%reachability, "how others reach this server"),
            Way::Relayed(_) | Way::Unreachable => tracing::warn!(%reachability, "how others reach this server"),
        }
        print(&(member.addresses().join("\n") + "\n"))?;
        host::tenant(plan, member).await.map_err(fault)
    };
    let mut tenant = tokio::select! {
        entered = entering => entered?,
        () = stops.next() => return Err(interrupted()),
    };
    tokio::select! {
        settled = tenant.settle() => settled.map_err(fault)?,
        () = stops.next() => {
            tenant.shut_down(Duration::ZERO).await;
            return Err(interrupted());
        }
    }
    tracing::info!(blocks = %tenant.blocks(), "serving the blocks");
    tokio::select! {
        never = tenant.roam() => match never {},
        () = stops.next() => {}
    }
    tracing::info!(sessions = tenant.open_sessions(), seconds = drain.as_secs(), "leaving the swarm");
    tokio::select! {
        () = tenant.shut_down(drain) => Ok(()),
        () = stops.next() => Err(interrupted_again()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_blocks_is_read_as_it_is_written() {
        assert_eq!(("auto".parse(), "3".parse()), (Ok(Count::Auto), Ok(Count::Blocks(3))));
        for wrong in ["0", "-1", "all", "", "1.5"] {
            assert!(wrong.parse::<Count>().is_err(), "{wrong}");
        }
    }
}
