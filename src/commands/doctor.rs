//! `corolla doctor`: what each model needs, what this machine has, and how the model would be run. Loads nothing.

use std::{fmt::Write, path::PathBuf};

use corolla_domain::fit::{self, Choice, Dtype, Row, check_kernels};
use serde::Serialize;

use super::{Compute, ConfigFile, host_fault, print};
use crate::{
    Stop,
    backend::Backend,
    config::{self, ModelSettings, Settings},
    plan::{self, Program, Survey},
    plugin::{self, Answer, Device, PlugIn, Probe},
    secret,
    wiring::{
        Access, Way,
        host::{self, BootstrapConfig},
    },
};

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    compute: Compute,
    /// Instead: how others would reach a server that enters the swarm of these nodes, several with commas.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',', requires = "listen")]
    initial_peers: Vec<String>,
    /// Where that server is to listen, several with commas; it must not be running.
    #[arg(long, value_name = "MULTIADDRESS", value_delimiter = ',', requires = "initial_peers")]
    listen: Vec<String>,
    /// File with that swarm's secret, where it has one.
    #[arg(long, value_name = "FILE", requires = "initial_peers")]
    secret_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How others would reach a server.
#[derive(Serialize)]
struct ReachReport {
    /// `direct`, `relayed` or `unreachable`.
    reachability: &'static str,
    /// Peer ids of the relays that gave a slot.
    relays: Vec<String>,
    /// Ports at which others get no answer, e.g. `TCP 31401`.
    blocked: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    processor: ProcessorReport,
    memory: MemoryReport,
    backends: Vec<BackendReport>,
    models: Vec<ModelReport>,
}

#[derive(Serialize)]
struct ProcessorReport {
    features: Vec<&'static str>,
    kernels: &'static str,
}

#[derive(Serialize)]
struct MemoryReport {
    total_bytes: u64,
    available_bytes: u64,
    /// What the control group allows; `None` where it sets no limit.
    limit_bytes: Option<u64>,
    free_bytes: u64,
}

#[derive(Serialize)]
struct BackendReport {
    name: &'static str,
    built_in: bool,
    /// The program beside this one that has it.
    plug_in: Option<String>,
    library: Option<String>,
    devices: Vec<Device>,
    /// Why it cannot be used, and what would help.
    error: Option<String>,
}

#[derive(Serialize)]
struct ModelReport {
    id: String,
    default: bool,
    path: String,
    about: Option<String>,
    /// How the file has the matrices of its blocks.
    stored: Option<String>,
    free_bytes: Option<u64>,
    dtypes: Vec<DtypeReport>,
    choice: Option<ChoiceReport>,
    /// Why it cannot be run.
    error: Option<String>,
}

#[derive(Serialize)]
struct DtypeReport {
    dtype: &'static str,
    /// `None` where rows of this model cannot be cut into blocks of 32.
    weights_bytes: Option<u64>,
    cache_bytes: Option<u64>,
    working_bytes: Option<u64>,
    total_bytes: Option<u64>,
    fits: bool,
    fits_devices: Vec<DeviceFit>,
    chosen: bool,
}

#[derive(Serialize)]
struct DeviceFit {
    backend: &'static str,
    device: usize,
    fits: bool,
}

#[derive(Serialize)]
struct ChoiceReport {
    backend: &'static str,
    dtype: &'static str,
    device: Option<usize>,
    blocks_backend: &'static str,
    blocks_dtype: &'static str,
    kernels: &'static str,
    total_bytes: u64,
    reason: String,
    /// The program that runs it, where that is another one.
    program: Option<String>,
}

/// Prints the report. The exit code tells whether every model can be run.
pub(crate) async fn run(options: &Options) -> Result<(), Stop> {
    if !options.initial_peers.is_empty() {
        return reach(options).await;
    }
    let file = options.file.config.as_deref();
    let settings = config::load_without_files(file, &options.compute.overrides()).map_err(Stop::usage)?;
    let lacking: Vec<Backend> = Backend::ALL.into_iter().filter(|backend| !backend.built_in()).collect();
    let survey = Survey::take(&settings, &lacking, plan::looks(&settings)).await.map_err(Stop::usage)?;
    let report = report(&settings, &survey);
    if options.json {
        print(&(serde_json::to_string_pretty(&report).map_err(Stop::failure)? + "\n"))?;
    } else {
        print(&text(&report))?;
    }
    let faults: Vec<String> =
        report.models.iter().filter_map(|it| Some(format!("model {}: {}", it.id, it.error.as_ref()?))).collect();
    if faults.is_empty() { Ok(()) } else { Err(Stop::usage(faults.join("\n"))) }
}

/// Tries how others would reach a server. One that nobody reaches is a failure.
async fn reach(options: &Options) -> Result<(), Stop> {
    let secret = options.secret_file.as_deref().map(secret::read).transpose().map_err(Stop::usage)?;
    let server = BootstrapConfig {
        listen: options.listen.clone(),
        initial_peers: options.initial_peers.clone(),
        access: Access { secret, allowed: None },
        ..BootstrapConfig::default()
    };
    let found = host::reachability(&server).await.map_err(|fault| host_fault(&fault))?;
    let (reachability, relays) = match &found.way {
        Way::Direct { .. } => ("direct", Vec::new()),
        Way::Relayed(relays) => ("relayed", relays.iter().map(ToString::to_string).collect()),
        Way::Unreachable => ("unreachable", Vec::new()),
    };
    if options.json {
        let report = ReachReport { reachability, relays, blocked: found.blocked.clone() };
        print(&(serde_json::to_string_pretty(&report).map_err(Stop::failure)? + "\n"))?;
    } else {
        print(&format!("{found}\n"))?;
    }
    if found.way == Way::Unreachable { Err(Stop::failure("nobody would reach a server here")) } else { Ok(()) }
}

/// A choice in a few words and its reason.
pub(crate) fn computed(choice: &Choice) -> String {
    let side = |side: fit::Side| {
        let device = side.card.map_or(String::new(), |nth| format!(" on cuda:{nth}"));
        match side.dtype {
            Dtype::Stored => format!("by {}{device} as stored", side.backend),
            dtype => format!("by {}{device} in {dtype}", side.backend),
        }
    };
    let how = match (choice.ends, choice.blocks) {
        (ends, blocks) if ends == blocks => side(ends),
        (ends, blocks) => format!("{}, blocks {}", side(ends), side(blocks)),
    };
    format!("{how}: {}", choice.reason)
}

fn report(settings: &Settings, survey: &Survey) -> Report {
    let program = survey.best();
    let rooms = program.verdicts.iter().map(|(_, room)| room);
    let looked = survey.models.iter().map(Result::is_ok);
    let mut rooms = rooms.into_iter();
    let rooms: Vec<Option<&fit::Room>> = looked.map(|ok| if ok { rooms.next() } else { None }).collect();
    let outcomes = survey.outcomes(program);
    let models = settings.models.iter().zip(&survey.models).zip(outcomes.zip(rooms));
    let memory = &survey.memory;
    Report {
        processor: ProcessorReport {
            features: survey.features.0.clone(),
            kernels: check_kernels(None, &survey.features).map_or("scalar", fit::Kernels::name),
        },
        memory: MemoryReport {
            total_bytes: memory.total,
            available_bytes: memory.available,
            limit_bytes: memory.group.map(|group| group.limit),
            free_bytes: memory.free(),
        },
        backends: Backend::ALL.into_iter().map(|backend| backend_report(backend, survey)).collect(),
        models: models
            .map(|((model, looked), (outcome, room))| {
                let default = model.id == settings.default_model;
                let choice = outcome.map(|(_, choice, _)| choice);
                model_report(model, default, looked.as_ref().ok(), room, choice, program)
            })
            .collect(),
    }
}

fn backend_report(backend: Backend, survey: &Survey) -> BackendReport {
    let of = |probe: &Probe| probe.backends.get(backend.name()).cloned();
    let beside = |it: &PlugIn| match of(it.probe.as_ref().ok()?)? {
        Answer::Usable(facts) => Some((it.path.display().to_string(), facts)),
        Answer::Broken { .. } => None,
    };
    let (plug_in, answer) = match of(&survey.own) {
        Some(answer) => (None, answer),
        None => match survey.plug_ins.iter().find_map(beside) {
            Some((path, facts)) => (Some(path), Answer::Usable(facts)),
            None => {
                let error = plugin::missing(backend, &plugin::folders(), &survey.plug_ins);
                (None, Answer::Broken { error })
            }
        },
    };
    let (facts, error) = match answer {
        Answer::Usable(facts) if backend.place() == fit::Place::Card && facts.devices.is_empty() => {
            (facts, Some("no card was found; check that the driver sees it (nvidia-smi)".to_owned()))
        }
        Answer::Usable(facts) => (facts, None),
        Answer::Broken { error } => (plugin::Facts::default(), Some(error)),
    };
    BackendReport {
        name: backend.name(),
        built_in: backend.built_in(),
        plug_in,
        library: facts.library,
        devices: facts.devices,
        error,
    }
}

fn model_report(
    model: &ModelSettings,
    default: bool,
    looked: Option<&plan::Looked>,
    room: Option<&fit::Room>,
    choice: Result<&Choice, &str>,
    program: &Program,
) -> ModelReport {
    let processor = model.compute.backend.filter(|backend| backend.place() == fit::Place::Processor);
    let kept = (processor.unwrap_or(Backend::CandleCpu).widens(), model.compute.screen);
    let table = |(looked, room): (&plan::Looked, &fit::Room)| fit::table(&looked.demand, kept, room);
    let rows = looked.zip(room).map(table).unwrap_or_default();
    let chosen = choice.ok().map(|choice| choice.blocks.dtype);
    ModelReport {
        id: model.id.0.clone(),
        default,
        path: model.path.display().to_string(),
        about: looked.map(|looked| looked.about.clone()),
        stored: looked.map(|looked| looked.demand.stored().name().to_owned()),
        free_bytes: room.map(|room| room.memory),
        dtypes: rows.into_iter().map(|row| dtype_report(row, chosen)).collect(),
        choice: choice.ok().map(|choice| ChoiceReport {
            backend: choice.ends.backend,
            dtype: choice.ends.dtype.name(),
            device: choice.ends.card,
            blocks_backend: choice.blocks.backend,
            blocks_dtype: choice.blocks.dtype.name(),
            kernels: choice.kernels.name(),
            total_bytes: choice.bytes.total(),
            reason: computed(choice),
            program: program.path.as_ref().map(|path| path.display().to_string()),
        }),
        error: choice.err().map(str::to_owned),
    }
}

fn dtype_report(row: Row, chosen: Option<Dtype>) -> DtypeReport {
    let fits_devices = row.fits_cards.into_iter().flat_map(|(backend, cards)| {
        cards.into_iter().enumerate().map(move |(device, fits)| DeviceFit { backend, device, fits })
    });
    DtypeReport {
        dtype: row.dtype.name(),
        weights_bytes: row.bytes.map(|bytes| bytes.weights),
        cache_bytes: row.bytes.map(|bytes| bytes.cache),
        working_bytes: row.bytes.map(|bytes| bytes.working),
        total_bytes: row.bytes.map(|bytes| bytes.total()),
        fits: row.fits,
        fits_devices: fits_devices.collect(),
        chosen: chosen == Some(row.dtype),
    }
}

fn text(report: &Report) -> String {
    let (processor, memory) = (&report.processor, &report.memory);
    let mut text = format!("processor    {} kernels ({})\n", processor.kernels, processor.features.join(", "));
    let limit = memory.limit_bytes.map_or(String::new(), |limit| format!(", limit {}", fit::bytes(limit)));
    let (free, total) = (fit::bytes(memory.free_bytes), fit::bytes(memory.total_bytes));
    let _ = writeln!(text, "memory       {free} free of {total}{limit}");
    for backend in &report.backends {
        let _ = writeln!(text, "{:<12} {}", backend.name, about(backend));
        for (nth, device) in backend.devices.iter().enumerate() {
            let (free, total) = (fit::bytes(device.free_bytes), fit::bytes(device.total_bytes));
            let _ = writeln!(text, "  cuda:{nth:<5} {}, {free} free of {total}", device.name);
        }
    }
    for model in &report.models {
        write_model(&mut text, model);
    }
    text
}

fn about(backend: &BackendReport) -> String {
    let library = backend.library.as_ref().map_or(String::new(), |library| format!(" ({library})"));
    match (&backend.error, &backend.plug_in) {
        (Some(error), _) => format!("no: {error}"),
        (None, Some(path)) => format!("in {path}{library}"),
        (None, None) => format!("built in{library}"),
    }
}

fn write_model(text: &mut String, model: &ModelReport) {
    let mark = if model.default { " (default)" } else { "" };
    let _ = writeln!(text, "\nmodel        {}{mark}", model.id);
    let _ = writeln!(text, "  path       {}", model.path);
    if let Some(about) = &model.about {
        let _ = writeln!(text, "  is         {about}");
    }
    if let Some(free) = model.free_bytes {
        let cards = model.dtypes.first().map(|row| row.fits_devices.as_slice()).unwrap_or_default();
        let cards: String = cards.iter().map(|card| format!("  {:>8}", format!("cuda:{}", card.device))).collect();
        let _ = writeln!(
            text,
            "  {:<10} {:>9} {:>9} {:>9} {:>9}  in {}{cards}",
            "dtype",
            "weights",
            "KV cache",
            "step",
            "total",
            fit::bytes(free)
        );
    }
    for row in &model.dtypes {
        let stored = model.stored.as_deref().unwrap_or_default();
        let name = if row.dtype == "stored" { format!("as {stored}") } else { row.dtype.to_owned() };
        let bytes = |bytes: Option<u64>| bytes.map_or("-".to_owned(), fit::bytes);
        let yes = |fits: bool| if fits { "fits" } else { "no" };
        let cards: String = row.fits_devices.iter().map(|card| format!("  {:>8}", yes(card.fits))).collect();
        let mark = if row.chosen { "  <- chosen" } else { "" };
        let _ = writeln!(
            text,
            "  {name:<10} {:>9} {:>9} {:>9} {:>9}  {:<8}{cards}{mark}",
            bytes(row.weights_bytes),
            bytes(row.cache_bytes),
            bytes(row.working_bytes),
            bytes(row.total_bytes),
            yes(row.fits),
        );
    }
    if let Some(choice) = &model.choice {
        let _ = writeln!(text, "  computed   {}", choice.reason);
        if let Some(program) = &choice.program {
            let _ = writeln!(text, "  by         {program}, which takes this program's place");
        }
    }
    if let Some(error) = &model.error {
        let _ = writeln!(text, "  cannot run {error}");
    }
}
