//! `corolla swarm status`: who hosts which blocks, and the route a reply would take.

use std::{fmt::Write, time::Duration};

use clap::Subcommand;
use corolla_domain::{
    model::{BlockRange, ModelSpec, ServerInfo, SwarmMap, blocks_in_words},
    ports::{FaultKind, PortError},
    routing::{InProcessSwarm, JoinedSwarm, plan},
};
use serde::Serialize;

use super::{ConfigFile, log, print, settings};
use crate::{
    Stop,
    config::{ModelSettings, Overrides},
    wiring,
};

/// Tokens a reply is assumed to need where servers say how much room they have.
const TYPICAL_TOKENS: usize = 1024;
/// How long a first look at a swarm may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Flags of `swarm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the servers, what they host, and the route a reply would take.
    Status(Status),
}

#[derive(Debug, clap::Args)]
struct Status {
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ModelReport {
    model: String,
    blocks: usize,
    missing: Vec<usize>,
    route: Vec<HopReport>,
    servers: Vec<ServerReport>,
    /// Why none but the servers of this process are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

#[derive(Serialize)]
struct HopReport {
    peer: String,
    blocks: String,
}

#[derive(Serialize)]
struct ServerReport {
    peer: String,
    blocks: String,
    rps: f64,
    rtt_ms: Option<f64>,
    free_tokens: Option<usize>,
    version: Option<String>,
    dtype: Option<String>,
    relayed: Option<bool>,
    name: Option<String>,
}

/// Looks at the swarm of every model whose blocks a swarm runs.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let Command::Status(options) = options.command;
    let settings = settings(&options.file, &Overrides::default())?;
    log("warn");
    let mut reports = Vec::new();
    for model in &settings.models {
        let spec = wiring::spec(model).map_err(Stop::failure)?;
        if !model.far(spec.blocks).is_empty() {
            reports.push(look(model, &spec).await?);
        }
    }
    if reports.is_empty() {
        return Err(Stop::usage(
            "no model of the configuration has blocks = \"swarm\", or a block_range of some blocks",
        ));
    }
    if options.json {
        let text = serde_json::to_string_pretty(&reports).map_err(Stop::failure)?;
        print(&(text + "\n"))?;
    } else {
        print(&reports.iter().map(table).collect::<String>())?;
    }
    match reports.into_iter().find_map(|report| report.fault) {
        Some(fault) => Err(Stop::failure(fault)),
        None => Ok(()),
    }
}

async fn look(model: &ModelSettings, spec: &ModelSpec) -> Result<ModelReport, Stop> {
    let swarm = wiring::swarm(model, spec).await.map_err(Stop::failure)?;
    let late = |_| PortError::new(FaultKind::TimedOut, format!("the swarm did not answer within {PATIENCE:?}"));
    let far = tokio::time::timeout(PATIENCE, swarm.map(&model.id)).await.map_err(late).flatten();
    let map = match model.here(spec.blocks) {
        Some(here) => JoinedSwarm::join(&[InProcessSwarm::offer(here, model.cache_tokens)], far),
        None => far.map_err(Stop::failure)?.as_ref().clone(),
    };
    Ok(report(model.id.0.clone(), &map, spec.blocks))
}

fn report(model: String, map: &SwarmMap, blocks: usize) -> ModelReport {
    let all = BlockRange::first(blocks);
    let route = plan(map, all, TYPICAL_TOKENS, |_| false).unwrap_or_default();
    let mut servers: Vec<&ServerInfo> = map.servers.iter().collect();
    servers.sort_by(|a, b| (a.blocks, &a.peer).cmp(&(b.blocks, &b.peer)));
    ModelReport {
        model,
        blocks,
        missing: map.missing(all),
        route: route.into_iter().map(|h| HopReport { peer: h.peer.0, blocks: h.blocks.to_string() }).collect(),
        servers: servers.into_iter().map(server).collect(),
        fault: map.fault.as_ref().map(|fault| format!("the swarm could not be reached: {fault}")),
    }
}

fn server(info: &ServerInfo) -> ServerReport {
    ServerReport {
        peer: info.peer.0.clone(),
        blocks: info.blocks.to_string(),
        rps: info.rps,
        rtt_ms: info.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        free_tokens: info.free_tokens,
        version: info.facts.version.clone(),
        dtype: info.facts.dtype.clone(),
        relayed: info.facts.relayed,
        name: info.facts.name.clone(),
    }
}

fn table(report: &ModelReport) -> String {
    let mut text = format!("{}: {} blocks\n", report.model, report.blocks);
    let _ = writeln!(
        text,
        "  {:<52} {:>9} {:>9} {:>8} {:>9} {:<9} {:<10} reached",
        "peer", "blocks", "steps/s", "rtt ms", "free", "dtype", "version"
    );
    let dash = || "-".to_owned();
    for s in &report.servers {
        let reached = match s.relayed {
            Some(true) => "relayed",
            Some(false) => "direct",
            None => "-",
        };
        let _ = writeln!(
            text,
            "  {:<52} {:>9} {:>9.1} {:>8} {:>9} {:<9} {:<10} {reached}",
            s.peer,
            s.blocks,
            s.rps,
            s.rtt_ms.map_or_else(dash, |ms| format!("{ms:.1}")),
            s.free_tokens.map_or_else(dash, |n| n.to_string()),
            s.dtype.clone().unwrap_or_else(dash),
            s.version.clone().unwrap_or_else(dash),
        );
    }
    if report.missing.is_empty() {
        let hops: Vec<String> = report.route.iter().map(|h| format!("{}@{}", h.blocks, h.peer)).collect();
        let _ = writeln!(text, "  route: {}", hops.join(" -> "));
    } else {
        let blocks = blocks_in_words(&report.missing);
        let _ = writeln!(text, "  nobody hosts blocks {blocks}: no reply is possible");
    }
    text
}

#[cfg(test)]
mod tests {
    use corolla_domain::model::{PeerId, ServerFacts};

    use super::*;

    #[test]
    fn missing_blocks_are_said_instead_of_a_route() {
        let info = ServerInfo {
            peer: PeerId("a".into()),
            blocks: BlockRange::first(2),
            rps: 10.0,
            rtt: None,
            next: Vec::new(),
            pushes: false,
            free_tokens: None,
            facts: ServerFacts::default(),
        };
        let map = SwarmMap::from(vec![info]);
        assert!(table(&report("m".into(), &map, 2)).contains("route: 0:2@a"));
        assert!(table(&report("m".into(), &map, 4)).contains("nobody hosts blocks 2, 3"));
    }
}
