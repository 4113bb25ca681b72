#!/bin/sh
# Makes the environment of llama_shapes.py and llama_peer.py: llama_install.sh [VENV]   (python3, cmake's wheel, a C++ compiler; minutes, once)
# Prints its folder, by default llama-peer in the cache folder. llama.cpp is built for this machine's processor.
set -eu
me=llama_install repo=$(cd -- "$(dirname -- "$0")/../.." && pwd)
. "$repo/scripts/cache.sh"
venv=${1:-$cache/llama-peer}
wanted='llama-cpp-python==0.3.36 gguf numpy'
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
    writable "$(dirname -- "$venv")"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086
    CMAKE_ARGS=-DGGML_NATIVE=ON "$venv/bin/pip" install --quiet --disable-pip-version-check $wanted >&2
    printf '%s' "$wanted" > "$venv/.installed"
fi
printf '%s\n' "$venv"
