# Sourced: a server for a test, ended with the script.
#   serve_for BINARY CONFIG    starts it with that configuration's text ('' for the defaults, with the small chat model), waits until its models
#                              are ready, and sets base (its address), server (its process) and work (a folder; its log is in $work/log)
# shellcheck shell=sh

serve_for() {
    command -v curl >/dev/null 2>&1 || { echo "curl is missing; \`make tools\` installs it on Debian and its kin" >&2 && exit 1; }
    work=$(mktemp -d)
    printf '%s\n' "$2" >"$work/corolla.toml"
    : >"$work/log"
    "$1" serve --listen 127.0.0.1:0 --config "$work/corolla.toml" 2>"$work/log" &
    server=$!
    trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf -- "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    tries=0
    until base=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$work/log") && [ -n "$base" ] && curl -fs "$base/health/ready" >/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 600 ] || ! kill -0 "$server" 2>/dev/null; then
            cat "$work/log" >&2
            echo "the server did not become ready; its log stands above" >&2
            exit 1
        fi
        sleep 0.1
    done
}
