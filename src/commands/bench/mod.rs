//! `corolla bench`: how fast a model is here, alone or in turns with another program.

mod course;
mod peer;
mod report;

use std::{
    io::{IsTerminal, stderr},
    sync::Arc,
    time::Instant,
};

use clap::builder::RangedU64ValueParser;
use corolla_domain::{
    fit::Kernels,
    ports::{FaultKind, PortError},
    routing::Bans,
    session::ModelEntry,
};

use self::{course::Course, report::Report};
use super::{Compute, ConfigFile, load_default, log, planned_default, print, unless_stopped};
use crate::{
    Stop,
    config::{Overrides, Settings},
    machine,
    plan::ModelPlan,
};

/// Flags of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Name of the model, as in the configuration.
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    #[command(flatten)]
    compute: Compute,
    /// Threads to compute with.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Tokens of a prompt.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = count(1))]
    prompt_tokens: usize,
    /// Tokens of a reply.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(2))]
    new_tokens: usize,
    /// Replies that are written at the same time; 1 leaves that out.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count(1))]
    sessions: usize,
    /// Rounds; medians of them are printed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count(1))]
    rounds: usize,
    /// A command of the shell that is run after each round. The last line it prints is a JSON object with some of
    /// prefill_tokens_per_s, decode_tokens_per_s, head_rows_per_s, batch_tokens_per_s; ratios to these are printed too.
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn count(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=1_000_000)
}

/// Loads the model, runs the rounds and prints what was found. Ctrl-C ends it.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let overrides = Overrides { default_model: options.model.clone(), ..options.compute.overrides() };
    let (settings, plans) = planned_default(&options.file, &overrides, options.threads).await?;
    log("warn");
    unless_stopped(bench(&options, &settings, &plans)).await
}

async fn bench(options: &Options, settings: &Settings, plans: &[ModelPlan]) -> Result<(), Stop> {
    let begun = Instant::now();
    let service = load_default(settings, plans, !options.json).await?;
    let load_s = begun.elapsed().as_secs_f64();
    let missing = || Stop::failure("the model is not there");
    let entry = service.catalogue().get(&settings.default_model).ok_or_else(missing)?;
    let Options { prompt_tokens: prompt, new_tokens: tokens, sessions, .. } = *options;
    let course = Course { prompt, tokens, sessions, chunk: settings.limits.prefill_chunk };
    check(&entry, course)?;
    let bans = Arc::new(Bans::default());
    let mut rounds = Vec::new();
    for nth in 1..=options.rounds {
        let progress = stderr().is_terminal();
        if progress {
            eprint!("\r\x1b[Kround {nth} of {} ...", options.rounds);
        }
        let round = course::round(&entry, &bans, course).await.map_err(|fault| failed(&fault))?;
        let peer = match &options.peer {
            Some(command) => Some(peer::run(command).await.map_err(Stop::failure)?),
            None => None,
        };
        rounds.push((round, peer));
        if progress {
            eprint!("\r\x1b[K");
        }
    }
    let plan = plans.first().ok_or_else(missing)?;
    let hops = rounds.last().map(|(round, _)| round.hops.clone()).unwrap_or_default();
    let report = Report {
        model: settings.default_model.to_string(),
        dtype: entry.local.spec().dtype.clone(),
        backend: plan.choice.ends.backend.to_owned(),
        kernels: Kernels::name(plan.choice.kernels).to_owned(),
        threads: machine::threads(plan.settings.threads),
        prompt_tokens: prompt,
        new_tokens: tokens,
        sessions,
        load_s,
        measures: report::measures(&rounds),
        same_tokens_in_batch: (sessions > 1).then(|| rounds.iter().all(|(round, _)| round.same)),
        hops_ms: hops.into_iter().map(|(hop, time)| (hop, report::ms(time))).collect(),
        peak_resident_bytes: machine::peak_resident(),
    };
    if options.json {
        return print(&(serde_json::to_string(&report).map_err(Stop::failure)? + "\n"));
    }
    print(&report.table())
}

fn failed(fault: &PortError) -> Stop {
    match fault.kind() {
        FaultKind::Capacity => Stop::failure(format!(
            "{fault}; ask for less with --prompt-tokens, --new-tokens or --sessions, or raise cache_tokens"
        )),
        _ => Stop::failure(fault),
    }
}

/// Refuses what the model has no positions for.
fn check(entry: &ModelEntry, course: Course) -> Result<(), Stop> {
    let (needed, spec) = (course.prompt + course.tokens, entry.local.spec());
    match spec.max_positions {
        Some(most) if needed > most => Err(Stop::usage(format!(
            "{} tokens of prompt and {} new ones are more than the {most} positions of {}; lower --prompt-tokens or --new-tokens",
            course.prompt, course.tokens, spec.id
        ))),
        _ => Ok(()),
    }
}
