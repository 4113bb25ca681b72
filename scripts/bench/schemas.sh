#!/bin/sh
# Two hundred drawn JSON schemas on the small chat model, and what a schema adds to a token: schemas.sh BINARY
set -eu
me=schemas
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
# shellcheck source=scripts/python-env.sh
. "$repo/scripts/python-env.sh"
# shellcheck source=scripts/serve-for.sh
. "$repo/scripts/serve-for.sh"
cd -- "$repo"
python_env clients-python "$repo/tests/clients/requirements.txt" python3.11 >&2
serve_for "$1" ''
"$venv/bin/python" tests/clients/schemas.py "$base" --count 200 --speed 5
