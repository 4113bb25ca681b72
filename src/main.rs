//! The entrance: reads the command line, and starts what it asks for.

mod backend;
mod commands;
mod config;
mod join;
mod machine;
mod plan;
mod plugin;
mod secret;
mod throughput;
mod wiring;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A chat page and an HTTP endpoint for large language models.
///
/// Settings come from built-in defaults, then the configuration file, then environment variables with the prefix
/// COROLLA_ (COROLLA_LISTEN, COROLLA_SESSIONS__MAX_SESSIONS), then flags; the later one wins. COROLLA_LOG sets what is
/// logged (error, warn, info, debug, trace).
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the chat page and the HTTP API.
    Serve(commands::serve::Options),
    /// Write a continuation of a prompt to the standard output.
    Generate(Box<commands::generate::Options>),
    /// Print how probable a model finds a text, token by token.
    Score(commands::score::Options),
    /// Measure how fast a model is here: prefill, decode, LM head, replies at the same time, hops of a swarm.
    Bench(commands::bench::Options),
    /// Make an API key, and print what the configuration keeps of it.
    Key(commands::key::Options),
    /// Print the OpenAPI description of the HTTP API.
    Openapi(commands::openapi::Options),
    /// Serve transformer blocks of a model to a Petals swarm.
    Host(Box<commands::host::Options>),
    /// Start a swarm: a node through which others enter.
    Bootstrap(commands::bootstrap::Options),
    /// Look at a swarm.
    Swarm(commands::swarm::Options),
    /// Check the configuration and the models' files without loading anything.
    CheckConfig(commands::check::Options),
    /// Tell what each model needs, what this machine has, and how it would be run. Loads nothing.
    Doctor(commands::doctor::Options),
    /// Print what this program can compute with, for another build of it.
    #[command(hide = true)]
    Probe,
}

/// What ends a command early: a sentence for the user and an exit code.
pub(crate) struct Stop {
    sentence: String,
    code: u8,
}

impl Stop {
    /// The configuration or the command line is at fault; nothing was started.
    #[allow(clippy::needless_pass_by_value, reason = "fits `map_err`")]
    fn usage(sentence: impl ToString) -> Self {
        Self { sentence: sentence.to_string(), code: 2 }
    }

    /// Something failed while running.
    #[allow(clippy::needless_pass_by_value, reason = "fits `map_err`")]
    fn failure(sentence: impl ToString) -> Self {
        Self { sentence: sentence.to_string(), code: 1 }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(options) => commands::serve::run(options).await,
        Command::Generate(options) => commands::generate::run(*options).await,
        Command::Score(options) => commands::score::run(options).await,
        Command::Bench(options) => commands::bench::run(options).await,
        Command::Key(options) => commands::key::run(&options),
        Command::Openapi(options) => commands::openapi::run(&options),
        Command::Host(options) => commands::host::run(*options).await,
        Command::Bootstrap(options) => commands::bootstrap::run(options).await,
        Command::Swarm(options) => commands::swarm::run(options).await,
        Command::CheckConfig(options) => commands::check::run(&options).await,
        Command::Doctor(options) => commands::doctor::run(&options).await,
        Command::Probe => commands::probe(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop { sentence, code }) => {
            eprintln!("corolla: {sentence}");
            ExitCode::from(code)
        }
    }
}
