//! `corolla openapi`: the description of the HTTP API.

use clap::ValueEnum;

use super::print;
use crate::Stop;

/// Flags of `openapi`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The version of OpenAPI to write it in.
    #[arg(long, value_name = "VERSION", default_value = "3.0")]
    oas: Oas,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Oas {
    /// Known to most tools.
    #[value(name = "3.0")]
    V3_0,
    /// Derived from it.
    #[value(name = "3.1")]
    V3_1,
}

/// Prints it as YAML.
pub(crate) fn run(options: &Options) -> Result<(), Stop> {
    print(&match options.oas {
        Oas::V3_0 => corolla_api::openapi_yaml(),
        Oas::V3_1 => corolla_api::openapi_3_1_yaml(),
    })
}
