//! `corolla check-config`: what the configuration means, and whether its models could be loaded.

use std::fmt::Write;

use corolla_domain::fit;

use super::{Compute, ConfigFile, planned, print};
use crate::Stop;

/// Flags of `check-config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    compute: Compute,
}

/// Prints the settings in force, or what is wrong with them.
pub(crate) async fn run(options: &Options) -> Result<(), Stop> {
    let (settings, plans) = planned(&options.file, &options.compute.overrides()).await?;
    let mut text = format!("listen         {}\n", settings.listen);
    for plan in &plans {
        let (model, choice) = (&plan.settings, &plan.choice);
        let mark = if model.id == settings.default_model { " (default)" } else { "" };
        let _ = writeln!(text, "model          {}{mark}", model.id);
        let _ = writeln!(text, "  path         {}", model.path.display());
        let _ = writeln!(text, "  is           {}", plan.about);
        let _ = writeln!(text, "  computed     {}", super::doctor::computed(choice));
        let _ = writeln!(text, "  takes        {} of memory at most", fit::bytes(choice.bytes.total()));
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
    let _ = writeln!(text, "prefixes       {} kept of conversations without a session", limits.prefixes);
    let _ = writeln!(text, "replies        {} at a time, {} waiting", limits.concurrent, limits.queue);
    let access = match settings.guard.keys(settings.listen).map_err(Stop::usage)?.as_slice() {
        [] => "everybody who reaches the server".to_owned(),
        keys => format!("who brings one of {} API keys", keys.len()),
    };
    let _ = writeln!(text, "asked by       {access}");
    print(&(text + "the configuration is good\n"))
}
