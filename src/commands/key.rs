//! `corolla key`: a new API key, and what the configuration keeps of it.

use corolla_api::ApiKey;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use super::print;
use crate::{Stop, config};

/// Tells what the text is where it is found lying about.
const PREFIX: &str = "corolla-";

/// Flags of `key`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Whose key it is; stands in the configuration and in the log.
    #[arg(long, value_name = "NAME", default_value = "me")]
    name: String,
}

/// Prints a key that was never there before. It is kept nowhere.
pub(crate) fn run(options: &Options) -> Result<(), Stop> {
    if !config::is_name(&options.name) {
        return Err(Stop::usage(format!("--name \"{}\" is no name; {}", options.name, config::NAMES)));
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|fault| Stop::failure(format!("the system gives no random numbers: {fault}")))?;
    let key = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
    let digest = HEXLOWER.encode(&ApiKey::digest(&key));
    print(&format!(
        "The key, for the client; it is shown this once:\n\n{key}\n\nFor the server's configuration file:\n\n\
         [[api_keys]]\nname = \"{}\"\nsha256 = \"{digest}\"\n",
        options.name
    ))
}
