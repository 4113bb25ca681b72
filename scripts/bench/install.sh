#!/bin/sh
# Makes the environment of torch_peer.py and shape_model.py: install.sh [VENV]   (CPython 3.11, gcc, binutils; 0.6 GB of wheels)
# Prints its folder, by default torch-peer in the cache folder (COROLLA_CACHE, else $XDG_CACHE_HOME/corolla, else ~/.cache/corolla). Instant where
# it is there already.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
me=bench
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
venv=${1:-$cache/torch-peer}
writable "$cache"
stamp=$venv/.installed
if ! cmp -s "$here/requirements.txt" "$stamp"; then
    rm -f -- "$stamp"
    python3.11 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt" >&2
    "$venv/bin/python" "$here/../golden/stub_cuda.py" "$venv" >&2
    "$venv/bin/python" -W ignore -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)' >&2
    cp -- "$here/requirements.txt" "$stamp"
fi
printf '%s\n' "$venv"
