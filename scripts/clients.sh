#!/bin/sh
# Runs clients that others wrote, unmodified, against the given binary with the small chat model: clients.sh BINARY
# Their packages are pinned in tests/clients and kept in the cache folder: 110 MB to fetch and 530 MB on disk, once.
#   COROLLA_CACHE   where to keep them (default: $XDG_CACHE_HOME/corolla, else ~/.cache/corolla)
set -eu
me=clients
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
binary=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
here=$repo/tests/clients
venv=$cache/clients-python
modules=$cache/clients-node

python3.11 -c 'import ensurepip, venv' 2>/dev/null ||
    fail "python3.11 with venv is missing; the clients' packages are pinned for it" \
        "Install it (Debian 12: apt-get install python3.11 python3.11-venv; elsewhere: pyenv install 3.11) and run this again."
for tool in node npm curl; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is missing" "Install it (Debian, Ubuntu: apt-get install nodejs npm curl) and run this again."
done
writable "$cache"
lock "$cache/.clients.lock" "getting the clients" || :

if ! cmp -s "$here/requirements.txt" "$venv/.installed"; then
    say "installing the Python clients into $venv"
    rm -rf -- "$venv"
    python3.11 -m venv "$venv" || fail "cannot make the environment $venv"
    "$venv/bin/python" -m pip install --no-deps --only-binary=:all: --quiet --disable-pip-version-check --no-input --retries 3 --timeout 30 \
        -r "$here/requirements.txt" >&2 9>&- ||
        fail "pip could not install the pinned packages; its own words stand above" \
            "Check the network (pip reads HTTPS_PROXY and PIP_INDEX_URL) and run this again."
    cp -- "$here/requirements.txt" "$venv/.installed"
fi
if ! cmp -s "$here/package-lock.json" "$modules/.installed"; then
    say "installing the client for Node into $modules"
    rm -rf -- "$modules"
    mkdir -p -- "$modules"
    cp -- "$here/package.json" "$here/package-lock.json" "$modules"
    (cd -- "$modules" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error 9>&-) >&2 ||
        fail "npm could not install the pinned packages; its own words stand above" "Check the network, and run this again."
    cp -- "$here/package-lock.json" "$modules/.installed"
fi
exec 9>&-

cd -- "$repo"
# shellcheck source=scripts/serve-for.sh
. "$repo/scripts/serve-for.sh"
# Rounded activations would make the small model's words depend on the processor.
serve_for "$binary" "$(printf '[[models]]\nid = "smollm2-135m-instruct"\npath = "%s"\nactivations = "f32"' "$repo/models/SmolLM2-135M-Instruct.Q4_1.gguf")"

failed=
step() { # name, command...
    name=$1
    shift
    "$@" || failed="$failed $name"
}
# What runs is in the repository, what it imports in the cache folder; none of it may look for another server.
unset OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORG_ID LANGCHAIN_TRACING_V2 LANGSMITH_TRACING 2>/dev/null || :
export PYTHONDONTWRITEBYTECODE=1 LITELLM_LOCAL_MODEL_COST_MAP=True
step openai-python "$venv/bin/python" "$here/openai_client.py" "$base"
cp -- "$here/openai.mjs" "$modules/openai.mjs"
step openai-node node "$modules/openai.mjs" "$base"
step litellm "$venv/bin/python" "$here/litellm_petals.py" "$base"
step langchain env COROLLA_URL="$base" "$venv/bin/python" -m pytest -q -p no:cacheprovider -rs -o addopts= -o asyncio_mode=auto \
    -o asyncio_default_test_loop_scope=session "$here/test_langchain.py"
if [ -n "$failed" ]; then
    tail -n 20 "$work/log" >&2
    fail "failed:$failed"
fi
