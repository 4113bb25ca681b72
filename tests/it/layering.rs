//! Who may import whom, as ARCHITECTURE.md says, read off the manifests.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::Deserialize;

/// Crates that adapters may share. They import the domain and those before them.
const LIBRARIES: [&str; 3] = ["corolla-gguf", "corolla-checkpoint", "corolla-compute"];

/// What the domain may use of the outside world.
const DOMAIN: [&str; 9] =
    ["async-trait", "bytes", "mockall", "rand_chacha", "serde", "thiserror", "tokio", "tracing", "uuid"];

/// Which crates of ours `package` may import, `all` being all of them.
fn allowed<'a>(package: &str, all: &[&'a str]) -> Vec<&'a str> {
    let libraries = |until: usize| all.iter().copied().filter(move |name| LIBRARIES[..until].contains(name));
    match package {
        "corolla" => all.iter().copied().filter(|name| *name != "testkit").collect(),
        "corolla-domain" => Vec::new(),
        "corolla-api" | "testkit" => vec!["corolla-domain"],
        // An adapter, or a library of theirs.
        name => {
            let until = LIBRARIES.iter().position(|library| *library == name).unwrap_or(LIBRARIES.len());
            libraries(until).chain(["corolla-domain"]).collect()
        }
    }
}

/// The part of `deny.toml` that says which crates may know a library.
#[derive(Deserialize)]
struct Deny {
    bans: Bans,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    library: String,
    #[serde(default)]
    wrappers: Vec<String>,
}

fn bans() -> BTreeMap<String, Vec<String>> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let deny: Deny = Figment::from(Toml::file_exact(file)).extract().unwrap();
    deny.bans.deny.into_iter().map(|ban| (ban.library, ban.wrappers)).collect()
}

#[test]
fn every_crate_imports_only_what_it_may() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let all: Vec<&str> =
        metadata.workspace_packages().into_iter().map(|package: &Package| package.name.as_str()).collect();
    let bans = bans();
    assert!(["candle-core", "libp2p", "poem", "clap"].iter().all(|heavy| bans.contains_key(*heavy)));
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let allowed = allowed(name, &all);
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            let ours = all.contains(&other);
            let for_tests = dependency.kind == DependencyKind::Development;
            let fine = !ours || allowed.contains(&other) || (for_tests && other == "testkit");
            assert!(fine, "{name} must not import {other}");
            let owned = bans.get(other).is_none_or(|owners| owners.iter().any(|owner| owner == name));
            assert!(owned || for_tests, "{name} must not import {other}; see deny.toml");
            let outside = name != "corolla-domain" || for_tests || ours || DOMAIN.contains(&other);
            assert!(outside, "the domain must not import {other}");
        }
    }
}

#[test]
fn the_domain_reads_no_clock_and_spawns_nothing() {
    let banned =
        ["std::time::Instant", "SystemTime", "tokio::spawn", "thread::spawn", "std::env::", "std::fs", "std::net"];
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("domain/src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let found = banned.iter().find(|word| product.contains(*word) && !path.ends_with("tests.rs"));
            assert_eq!(found, None, "{}", path.display());
        }
    }
    assert!(files > 20);
}
