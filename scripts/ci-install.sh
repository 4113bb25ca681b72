#!/bin/sh
# Installs what the tests need beyond the Rust toolchain, on Debian and its kin; elsewhere it says what to install. Quick when all is there.
#   redis-server   the session store's contract suite
#   chromium       the tests that use the page as a person does, with node and npm
#   curl           asks a server that a test starts whether it is ready
#   node, npm      these tests, the check that ui/dist is what ui/src builds, lints of the API's description and clients generated from it
set -eu
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
missing=

say() { printf '%s\n' "install: $*"; }

fail() {
    printf '%s\n' "install: $*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

want() { # command, package
    has "$1" || missing="$missing $2"
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "apt-get $1 failed; its last words stand above. Check the network and the package sources, and run this again."
    }
}

want redis-server redis-server
want chromium chromium
want node nodejs
want npm npm
want curl curl

if [ -n "$missing" ]; then
    has apt-get || fail "missing:$missing. Install them with this system's package manager, and run this again."
    [ "$(id -u)" = 0 ] || fail "missing:$missing. Run: sudo apt-get update && sudo apt-get install --no-install-recommends$missing"
    log=$(mktemp)
    trap 'rm -f -- "$log"' EXIT
    say "apt-get install$missing"
    apt update
    # shellcheck disable=SC2086
    apt install -y --no-install-recommends $missing
fi

sh "$repo/scripts/npm-install.sh" ui tests/browser tests/typed-clients
say "redis-server, chromium, curl, node and npm are there"
