//! `corolla host`: blocks of a model for a Petals swarm.

use std::{path::PathBuf, str::FromStr, time::Duration};

use corolla_domain::model::BlockRange;

use super::{asked_to_stop, log, print};
use crate::{Stop, wiring_host};

/// Flags of `host`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The model: a GGUF file, or a folder in Hugging Face layout. Only the blocks that are served are read.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: PathBuf,
    /// Blocks to serve, e.g. 0:12 for the first twelve; without this all of them.
    #[arg(long, value_name = "FIRST:END")]
    pub(crate) blocks: Option<Span>,
    /// Where the swarm is entered, several with commas, as `corolla bootstrap` prints it.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',', required = true)]
    pub(crate) initial_peers: Vec<String>,
    /// The model's name in the swarm; clients must ask for the same.
    #[arg(long, value_name = "NAME")]
    pub(crate) dht_prefix: String,
    /// Where to listen, several with commas; /tcp/0 takes a free port.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',', default_value = "/ip4/127.0.0.1/tcp/0")]
    pub(crate) listen: Vec<String>,
    /// How weights are kept, and the type that hidden states travel in. auto: as the file has them, sent as f32 where they
    /// are f32, else as bf16.
    #[arg(long, value_enum, default_value_t = HostDtype::Auto)]
    pub(crate) dtype: HostDtype,
    /// File of the private key, made where there is none: the server keeps its name. Without this it has a new one each time.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Positions that the sessions of all clients may reserve together, over all blocks. [default: 16384 where heads share
    /// keys and values, else 4096]
    #[arg(long, value_name = "N")]
    pub(crate) attn_cache_tokens: Option<usize>,
    /// What the server is called in lists.
    #[arg(long, value_name = "NAME")]
    pub(crate) public_name: Option<String>,
    /// Threads to compute with; without this one for each core.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Seconds between announcements. A server that dies is forgotten after two of them.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) update_period: u64,
    /// Seconds that open sessions may go on after the server was asked to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
}

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HostDtype {
    /// As the file has them.
    Auto,
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// A run of blocks, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) BlockRange);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
        let (start, end) = parts.ok_or("blocks are written FIRST:END, e.g. 0:12")?;
        BlockRange::new(start, end).map(Self).ok_or_else(|| format!("there is no block in {text}"))
    }
}

/// Enters the swarm, loads the blocks, serves them until it is asked to stop, and says goodbye.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    log("info");
    let fault = |fault| wiring_host::stop(&fault);
    let plan = wiring_host::plan(&options).map_err(fault)?;
    let entering = async {
        let mut server = wiring_host::join(&plan).await?;
        print(&(server.addresses().join("\n") + "\n")).map_err(|stop| wiring_host::unprinted(&stop))?;
        let speed = wiring_host::serve(&mut server, &plan).await?;
        Ok((server, speed))
    };
    let (server, speed) = tokio::select! {
        entered = entering => entered.map_err(fault)?,
        () = asked_to_stop() => return Err(Stop { sentence: "interrupted".to_owned(), code: 130 }),
    };
    tracing::info!(
        blocks = %plan.server.blocks, peer = %server.peer_id(), steps_per_s = speed.inference.round(),
        "serving the blocks"
    );
    asked_to_stop().await;
    tracing::info!(sessions = server.open_sessions(), seconds = options.drain, "leaving the swarm");
    tokio::select! {
        () = server.shut_down(Duration::from_secs(options.drain)) => Ok(()),
        () = asked_to_stop() => Err(Stop { sentence: "interrupted again: sessions were broken off".to_owned(), code: 130 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_they_are_written() {
        assert_eq!("0:12".parse(), Ok(Span(BlockRange::first(12))));
        for wrong in ["12", "3:3", "4:2", "a:b", "-1:2", ""] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
