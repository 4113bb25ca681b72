//! Who may import whom, as ARCHITECTURE.md says, read off the manifests.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// For every crate of ours, which other crates of ours it may depend on (for its tests also `testkit`).
const OURS: [(&str, &[&str]); 9] = [
    ("corolla-domain", &[]),
    ("corolla-gguf", &[]),
    ("corolla-candle", &["corolla-domain", "corolla-gguf"]),
    ("corolla-tokenizers", &["corolla-domain", "corolla-gguf"]),
    ("corolla-sessions", &["corolla-domain"]),
    ("corolla-swarm", &["corolla-domain"]),
    ("corolla-api", &["corolla-domain"]),
    ("testkit", &["corolla-domain"]),
    (
        "corolla",
        &["corolla-domain", "corolla-candle", "corolla-tokenizers", "corolla-sessions", "corolla-swarm", "corolla-api"],
    ),
];

/// What the domain may use of the outside world.
const DOMAIN: [&str; 9] =
    ["async-trait", "bytes", "mockall", "rand_chacha", "serde", "thiserror", "tokio", "tracing", "uuid"];

/// Heavy libraries, and the only crate that may know each of them.
const HEAVY: [(&str, &str); 10] = [
    ("candle-core", "corolla-candle"),
    ("tokenizers", "corolla-tokenizers"),
    ("minijinja", "corolla-tokenizers"),
    ("redis", "corolla-sessions"),
    ("libp2p", "corolla-swarm"),
    ("poem", "corolla-api"),
    ("poem-openapi", "corolla-api"),
    ("figment", "corolla"),
    ("clap", "corolla"),
    ("sysinfo", "corolla"),
];

#[test]
fn every_crate_imports_only_what_it_may() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let rules: BTreeMap<&str, &[&str]> = OURS.into_iter().collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let allowed = rules.get(name).unwrap_or_else(|| panic!("{name} has no row in tests/it/layering.rs"));
        for dependency in &package.dependencies {
            let other = dependency.name.as_str();
            let ours = rules.contains_key(other);
            let for_tests = dependency.kind == DependencyKind::Development;
            let fine = !ours || allowed.contains(&other) || (for_tests && other == "testkit");
            assert!(fine, "{name} must not import {other}");
            let owner = HEAVY.iter().find(|(library, _)| *library == other).map_or(name, |(_, owner)| owner);
            assert!(owner == name || for_tests, "{other} belongs to {owner}, {name} must not import it");
            let outside = name != "corolla-domain" || for_tests || ours || DOMAIN.contains(&other);
            assert!(outside, "the domain must not import {other}");
        }
    }
    assert_eq!(metadata.workspace_packages().len(), OURS.len());
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
