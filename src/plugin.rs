//! Plug-ins: programs of the same version that have backends which this one lacks.
//!
//! A program that is linked with CUDA or libtorch does not even start where those are missing, so the plain `corolla` is
//! free of them. Accelerated builds lie beside it under their own names. Before anything else is started, such a build
//! is asked what it can do (`corolla-tch probe`), and if it can do what the configuration wants, it takes this program's
//! place.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use corolla_domain::fit::Card;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    task::JoinSet,
    time::timeout,
};

use crate::{Stop, backend::Backend};

/// `COROLLA_BACKENDS`, the folder of plug-ins besides that of this program, as the configuration's layers see it.
pub(crate) const FOLDER_KEY: &str = "backends";
/// `COROLLA_PLUG_IN`, set for a program that took another one's place, so that it does not look for a third one.
pub(crate) const GUARD_KEY: &str = "plug_in";
const FOLDER: &str = "COROLLA_BACKENDS";
const GUARD: &str = "COROLLA_PLUG_IN";

/// Version of this program; plug-ins must have the same.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Characters that are shown of what a program says.
const SHOWN: usize = 300;

/// Bounds on a program that is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long it may take.
    pub(crate) time: Duration,
    /// How much it may say.
    pub(crate) bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        // The libraries of a GPU are read from disk, and its driver may have to wake up.
        Self { time: Duration::from_secs(30), bytes: 64 << 10 }
    }
}

/// What a program says of itself, by the names of its backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// Its version.
    pub(crate) version: String,
    /// The backends that were built in.
    pub(crate) backends: BTreeMap<String, Answer>,
}

/// Whether a backend that was built in can be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// Why not.
    Broken {
        /// A sentence.
        error: String,
    },
    /// It can.
    Usable(Facts),
}

/// What a backend found on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Its cards.
    #[serde(default)]
    pub(crate) devices: Vec<Device>,
    /// What it computes with, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) library: Option<String>,
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// What its maker calls it.
    pub(crate) name: String,
    /// Its memory.
    pub(crate) total_bytes: u64,
    /// What nobody uses of it.
    pub(crate) free_bytes: u64,
}

/// A program that was found beside this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlugIn {
    /// Where.
    pub(crate) path: PathBuf,
    /// What it says, or what is wrong with it and what would help.
    pub(crate) probe: Result<Probe, String>,
}

impl Probe {
    /// What this program says of itself.
    pub(crate) fn own(facts: impl Fn(Backend) -> Result<Facts, String>) -> Self {
        let answer = |backend| facts(backend).map_or_else(|error| Answer::Broken { error }, Answer::Usable);
        let built_in = Backend::ALL.into_iter().filter(|backend| backend.built_in());
        let backends = built_in.map(|backend| (backend.name().to_owned(), answer(backend))).collect();
        Self { version: VERSION.to_owned(), backends }
    }

    /// The cards of a backend, or why it cannot be used; `None` where it was not built in.
    pub(crate) fn cards(&self, backend: Backend) -> Option<Result<Vec<Card>, String>> {
        Some(match self.backends.get(backend.name())? {
            Answer::Broken { error } => Err(error.clone()),
            Answer::Usable(facts) => {
                let card = |it: &Device| Card { name: it.name.clone(), total: it.total_bytes, free: it.free_bytes };
                Ok(facts.devices.iter().map(card).collect())
            }
        })
    }
}

/// Where plug-ins are looked for; nowhere, where this program is one itself.
pub(crate) fn folders() -> Vec<PathBuf> {
    if env::var_os(GUARD).is_some() {
        return Vec::new();
    }
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let configured = env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    configured.into_iter().chain(beside).collect()
}

/// Asks all programs in `folders` that may have one of `wanted`.
pub(crate) async fn find(folders: &[PathBuf], wanted: &[Backend], bounds: Bounds) -> Vec<PlugIn> {
    let mut names: Vec<&str> = Vec::new();
    for name in wanted.iter().flat_map(|backend| backend.plug_ins()) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let own = env::current_exe().and_then(std::fs::canonicalize).ok();
    let mut asked: Vec<PathBuf> = Vec::new();
    let mut asking = JoinSet::new();
    for path in folders.iter().flat_map(|folder| names.iter().map(|name| program(folder, name))) {
        let Ok(real) = std::fs::canonicalize(&path) else { continue };
        if Some(&real) == own.as_ref() || asked.contains(&real) {
            continue;
        }
        asked.push(real);
        let nth = asked.len();
        asking.spawn(async move {
            let probe = ask(&path, bounds).await;
            (nth, PlugIn { path, probe })
        });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(nth, _)| *nth);
    found.into_iter().map(|(_, plug_in)| plug_in).collect()
}

fn program(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// Asks one program.
async fn ask(path: &Path, bounds: Bounds) -> Result<Probe, String> {
    let child = Command::new(path)
        .arg("probe")
        .env(GUARD, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|fault| format!("cannot be started: {fault}"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let answer = async {
        let (out, err) = tokio::join!(read(out, bounds.bytes), read(err, bounds.bytes));
        (out, err, child.wait().await)
    };
    let Ok((out, err, status)) = timeout(bounds.time, answer).await else {
        return Err(format!(
            "did not answer within {} s; look at what `{} probe` does",
            bounds.time.as_secs_f32(),
            path.display()
        ));
    };
    let status = status.map_err(|fault| format!("cannot be waited for: {fault}"))?;
    if out.len() as u64 > bounds.bytes {
        return Err(format!("said more than {} bytes, so it is no build of corolla", bounds.bytes));
    }
    if !status.success() {
        return Err(failed(status.code(), &said(&err, path)));
    }
    let probe: Probe = serde_json::from_slice(&out)
        .map_err(|_| format!("is no build of corolla: it said \"{}\"", said(&out, path)))?;
    if probe.version != VERSION {
        let version = said(probe.version.as_bytes(), path);
        return Err(format!("is corolla {version}, this is {VERSION}; build both from the same sources"));
    }
    Ok(probe)
}

/// Reads to the end, or one byte beyond the bound.
async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let _ = from.take(most + 1).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The first words of a program, without what the terminal would obey.
fn said(bytes: &[u8], path: &Path) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing");
    // The dynamic loader begins with the program's name, which stands in our sentence already.
    let line = line.strip_prefix(&format!("{}: ", path.display())).unwrap_or(line);
    line.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Why a program ended early, and what would help.
fn failed(code: Option<i32>, words: &str) -> String {
    let help = match words {
        _ if words.contains("libcuda.so") => "; install the driver of the NVIDIA card",
        _ if words.contains("libtorch") || words.contains("libc10") => "; `make libtorch` fetches the library it needs",
        _ if words.contains("shared librar") || words.contains("symbol lookup") => {
            "; install the library, or build it anew"
        }
        _ => "",
    };
    match code {
        Some(127) => format!("does not start: {words}{help}"),
        Some(code) => format!("ended with exit code {code}: {words}{help}"),
        None => format!("was ended by a signal: {words}{help}"),
    }
}

/// Why a backend that this program lacks cannot be had, and what would help.
pub(crate) fn missing(backend: Backend, folders: &[PathBuf], found: &[PlugIn]) -> String {
    let remedy = backend.remedy();
    if env::var_os(GUARD).is_some() {
        return format!("this program took another one's place ({GUARD} is set), and does not have it; {remedy}");
    }
    let mut words = Vec::new();
    for PlugIn { path, probe } in found {
        if !path.file_stem().and_then(OsStr::to_str).is_some_and(|name| backend.plug_ins().contains(&name)) {
            continue;
        }
        let path = path.display();
        match probe.as_ref().map(|probe| probe.cards(backend)) {
            Err(why) => words.push(format!("{path} {why}")),
            Ok(None) => words.push(format!("{path} was built without it")),
            Ok(Some(Err(error))) => words.push(format!("{path} has it, but: {error}")),
            Ok(Some(Ok(_))) => words.push(format!("{path} has it, but not everything else this configuration needs")),
        }
    }
    if words.is_empty() {
        let names = backend.plug_ins().join(" or ");
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return format!("this program does not have it, and there is no {names} in {}; {remedy}", folders.join(" or "));
    }
    format!("this program does not have it, and {}", words.join("; "))
}

/// Puts the program at `path` in this one's place, with the same arguments. Returns only where that fails.
#[cfg(unix)]
pub(crate) fn take_over(path: &Path) -> Stop {
    use std::os::unix::process::CommandExt;

    let mut command = std::process::Command::new(path);
    command.args(env::args_os().skip(1)).env(GUARD, path);
    for (variable, value) in Backend::ALL.into_iter().flat_map(Backend::environment) {
        if env::var_os(variable).is_none() {
            command.env(variable, value);
        }
    }
    let fault = command.exec();
    Stop::usage(format!("{} cannot be started: {fault}", path.display()))
}

/// Says which program to start instead.
#[cfg(not(unix))]
pub(crate) fn take_over(path: &Path) -> Stop {
    Stop::usage(format!("this program lacks a backend that the configuration needs; start {} instead", path.display()))
}

#[cfg(all(test, unix))]
mod tests;
