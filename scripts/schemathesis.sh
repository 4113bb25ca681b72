#!/bin/sh
# Sends what openapi.yaml allows, and what it does not, to the given binary, and checks what comes back against it: schemathesis.sh BINARY
# At least two thousand cases from one seed; SEED=N draws others.
set -eu
me=schemathesis
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
# shellcheck source=scripts/python-env.sh
. "$repo/scripts/python-env.sh"
# shellcheck source=scripts/serve-for.sh
. "$repo/scripts/serve-for.sh"
here=$repo/tests/schemathesis
cd -- "$repo"
python_env schemathesis "$here/requirements.txt"

# Replies are kept short: what is tested is the door.
serve_for "$1" '[sessions]
max_length = 96
default_length = 16
idle_seconds = 5
[limits]
body_seconds = 5'

# One worker: a seed then gives the same cases in the same order. Two may fail by themselves in Python before 3.11.8, where two threads that
# parse at the same time count each other's depth (cpython#106905), as hypothesis does to name a strategy.
status=0
"$venv/bin/schemathesis" --config-file "$here/schemathesis.toml" run openapi.yaml --url "$base" --checks all --max-examples "${EXAMPLES:-140}" \
    --seed "${SEED:-1}" --workers 1 --continue-on-failure --no-color >"$work/said" || status=$?
cat "$work/said"
kill -0 "$server" || fail "the server ended under the requests; its log:$(cat "$work/log" >&2)"
if grep -E 'panicked|ERROR' "$work/log" >&2; then fail "the server's log tells of faults; they stand above"; fi
cases=$(sed -n 's/^ *\([0-9]*\) generated.*/\1/p' "$work/said")
[ "$status" -eq 0 ] || fail "schemathesis found faults; they stand above. The same again: SEED=${SEED:-1} make schemathesis"
[ "${cases:-0}" -ge "${LEAST:-2000}" ] || fail "only ${cases:-0} cases were tried; there should be ${LEAST:-2000}: EXAMPLES=500 tries more"
