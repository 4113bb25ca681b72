#!/bin/sh
# Drives the page in headless Chromium against the given binary: browser-test.sh BINARY [--pictures FOLDER]
set -eu
cd -- "$(dirname -- "$0")/.."
# shellcheck source=scripts/serve-for.sh
. scripts/serve-for.sh
binary=$1
shift
sh scripts/npm-install.sh tests/browser
serve_for "$binary" ''
node tests/browser/all.mjs "$base" --binary "$binary" "$@" || {
    tail -n 20 "$work/log" >&2
    exit 1
}
