#!/bin/sh
# Drives the page in headless Chromium against the given binary: browser-test.sh BINARY [--pictures FOLDER]
set -eu
cd -- "$(dirname -- "$0")/.."
binary=$1
shift
work=$(mktemp -d)
"$binary" serve --listen 127.0.0.1:0 2>"$work/log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf -- "$work"' EXIT
trap 'exit 130' INT TERM HUP
tries=0
until url=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$work/log") && [ -n "$url" ] && curl -fs "$url/health/ready" >/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ] || ! kill -0 "$server" 2>/dev/null; then
        cat "$work/log" >&2
        echo "browser-test: the server did not become ready; its log stands above" >&2
        exit 1
    fi
    sleep 0.1
done
node tests/browser/all.mjs "$url" --binary "$binary" "$@" || {
    tail -n 20 "$work/log" >&2
    exit 1
}
