//! `corolla host`: blocks of a model for a Petals swarm.

use std::path::PathBuf;

use super::{Compute, ConfigFile, asked_to_stop, host_fault, log, planned, print};
use crate::{
    Stop,
    config::{HostFlags, Overrides},
    wiring::host,
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
    /// Blocks to serve, e.g. 0:12 for the first twelve; without this all of them.
    #[arg(long, value_name = "FIRST:END")]
    blocks: Option<String>,
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
    /// What the server is called in lists.
    #[arg(long, value_name = "NAME")]
    public_name: Option<String>,
    /// Threads to compute with; without this one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Time between announcements, e.g. 120s. A server that dies is forgotten after two of them. [default: 120s]
    #[arg(long, value_name = "TIME")]
    update_period: Option<String>,
    /// How long open sessions may go on after the server was asked to stop. [default: 30s]
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
}

impl Options {
    fn overrides(self) -> Result<Overrides, Stop> {
        let usual = |path: &PathBuf| host::usual_cache_tokens(path).map_err(Stop::usage);
        let cache_tokens = match (self.attn_cache_tokens, &self.model) {
            (None, Some(path)) => Some(usual(path)?),
            (asked, _) => asked,
        };
        Ok(Overrides {
            path: self.model,
            join: self.join,
            host: Some(HostFlags {
                blocks: self.blocks,
                initial_peers: self.initial_peers,
                dht_prefix: self.dht_prefix,
                secret_file: self.secret_file,
                allowed_peers: self.allowed_peers,
                listen: self.listen,
                identity: self.identity,
                cache_tokens,
                public_name: self.public_name,
                threads: self.threads,
                update_period: self.update_period,
                drain: self.drain,
            }),
            ..self.compute.overrides()
        })
    }
}

/// Enters the swarm, loads the blocks, serves them until it is asked to stop, and says goodbye.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let (file, overrides) = (options.file.clone(), options.overrides()?);
    let (_, mut plans) = planned(&file, &overrides).await?;
    let (Some(plan), true) = (plans.pop(), plans.is_empty()) else {
        return Err(Stop::failure("one model is hosted at a time"));
    };
    let Some(settings) = plan.settings.host.clone() else { return Err(Stop::failure("there is nothing to host")) };
    log("info");
    let entering = async {
        let mut server = host::join(&plan, &settings).await.map_err(|fault| host_fault(&fault))?;
        print(&(server.addresses().join("\n") + "\n"))?;
        tracing::info!(model = plan.about, reason = plan.choice.reason, "loading");
        let engine = host::blocks(&plan).await.map_err(|fault| host_fault(&fault))?;
        let speed = server.serve(engine).await.map_err(|fault| host_fault(&fault))?;
        Ok::<_, Stop>((server, speed))
    };
    let (server, speed) = tokio::select! {
        entered = entering => entered?,
        () = asked_to_stop() => return Err(Stop { sentence: "interrupted".to_owned(), code: 130 }),
    };
    tracing::info!(
        blocks = %server.blocks(), peer = %server.peer_id(), steps_per_s = speed.inference.round(),
        "serving the blocks"
    );
    asked_to_stop().await;
    tracing::info!(sessions = server.open_sessions(), seconds = settings.drain.as_secs(), "leaving the swarm");
    tokio::select! {
        () = server.shut_down(settings.drain) => Ok(()),
        () = asked_to_stop() => Err(Stop { sentence: "interrupted again: sessions were broken off".to_owned(), code: 130 }),
    }
}
