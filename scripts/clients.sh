#!/bin/sh
# Runs clients that others wrote, unmodified, against the given binary with the small chat model: clients.sh BINARY
# Their packages are pinned in tests/clients, those for Python as pip resolved them on 3.11: 110 MB to fetch and 530 MB on disk, once.
#   COROLLA_CACHE   where those for Python are kept (default: $XDG_CACHE_HOME/corolla, else ~/.cache/corolla)
set -eu
me=clients
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
# shellcheck source=scripts/python-env.sh
. "$repo/scripts/python-env.sh"
# shellcheck source=scripts/serve-for.sh
. "$repo/scripts/serve-for.sh"
here=$repo/tests/clients
cd -- "$repo"
python_env clients-python "$here/requirements.txt" python3.11
sh scripts/npm-install.sh tests/clients

# Rounded activations would make the small model's words depend on the processor.
serve_for "$1" "$(printf '[[models]]\nid = "smollm2-135m-instruct"\npath = "%s"\nactivations = "f32"' "$repo/models/SmolLM2-135M-Instruct.Q4_1.gguf")"

failed=
step() { # name, command...
    name=$1
    shift
    "$@" || failed="$failed $name"
}
# None of it may look for another server.
unset OPENAI_API_KEY OPENAI_BASE_URL OPENAI_ORG_ID LANGCHAIN_TRACING_V2 LANGSMITH_TRACING 2>/dev/null || :
export PYTHONDONTWRITEBYTECODE=1 LITELLM_LOCAL_MODEL_COST_MAP=True
step openai-python "$venv/bin/python" "$here/openai_client.py" "$base"
step openai-node node "$here/openai.mjs" "$base"
step schemas "$venv/bin/python" "$here/schemas.py" "$base" --count 20
step litellm "$venv/bin/python" "$here/litellm_petals.py" "$base"
step langchain env COROLLA_URL="$base" "$venv/bin/python" -m pytest -q -p no:cacheprovider -rs -o addopts= -o asyncio_mode=auto \
    -o asyncio_default_test_loop_scope=session "$here/test_langchain.py"
if [ -n "$failed" ]; then
    tail -n 20 "$work/log" >&2
    fail "failed:$failed"
fi
