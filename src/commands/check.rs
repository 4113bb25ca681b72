//! `corolla check-config`: what the configuration means, and whether its models could be loaded.

use std::fmt::Write;

use super::{ConfigFile, print, settings};
use crate::{Stop, config::Overrides, wiring};

/// Flags of `check-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
}

/// Prints the settings in force, or what is wrong with them.
pub(crate) fn run(options: &Options) -> Result<(), Stop> {
    let settings = settings(&options.file, &Overrides::default())?;
    let mut text = format!("listen         {}\n", settings.listen);
    for model in &settings.models {
        let summary = wiring::inspect(model).map_err(Stop::usage)?;
        let mark = if model.id == settings.default_model { " (default)" } else { "" };
        let _ = writeln!(text, "model          {}{mark}", model.id);
        let _ = writeln!(text, "  path         {}", model.path.display());
        let _ = writeln!(text, "  is           {summary}");
    }
    let limits = &settings.limits;
    let _ = writeln!(
        text,
        "sessions       {} at most, {} tokens each where the client does not say, {} at most, forgotten after {} s",
        limits.max_sessions,
        limits.default_length,
        limits.max_length,
        limits.idle.as_secs()
    );
    let _ = writeln!(text, "replies        {} at a time, {} waiting", limits.concurrent, limits.queue);
    print(&(text + "the configuration is good\n"))
}
