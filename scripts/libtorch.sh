#!/bin/sh
# Gets libtorch for the tch backend: its CPU part out of PyPI's torch wheel, without the CUDA packages that the wheel asks for. Instant where it
# is there already.
# Prints the folder as its last line: LIBTORCH=$(scripts/libtorch.sh) cargo build --features libtorch. Needs x86_64 Linux, python3 with pip;
# 540 MB to fetch, 490 MB on disk. The folder needs no other one: its libraries find each other in lib/, which a binary's rpath names.
#   LIBTORCH        a libtorch of your own: it is looked at (exit 2 if it is another version), printed, and nothing is fetched
#   COROLLA_CACHE   where to keep it (default: $XDG_CACHE_HOME/corolla, else ~/.cache/corolla)
set -eu

version=2.13.0 # the one that torch-sys 0.26 is written for; another one loads, and computes garbage
me=libtorch
by_hand="Or get libtorch $version another way and let LIBTORCH name its folder."
# shellcheck source=scripts/wheels.sh
. "$(dirname -- "$0")/wheels.sh"

folder=$cache/libtorch-$version-cpu
pins="torch==$version --hash=sha256:60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"

# The version of the libtorch in folder $1, as its own files tell it.
version_of() {
    if [ -f "$1/build-version" ]; then
        sed -n '1s/[+[:space:]].*//; 1p' "$1/build-version"
        return
    fi
    for header in headeronly csrc/api/include/torch; do
        header=$1/include/torch/$header/version.h
        [ -f "$header" ] || continue
        sed -nE 's/^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+).*/\2/p' "$header" | paste -sd. -
        return
    done
}

use_own() {
    own=$(CDPATH='' cd -- "$LIBTORCH" 2>/dev/null && pwd) || own=
    by_itself="Or unset LIBTORCH: then this script gets $version."
    if [ -z "$own" ] || ! { [ -e "$own/lib/libtorch_cpu.so" ] || [ -e "$own/lib/libtorch_cpu.dylib" ]; }; then
        complain "LIBTORCH=$LIBTORCH is no libtorch: it has no lib/libtorch_cpu.so" \
            "Let it name the folder that holds lib/ and include/ of libtorch $version. $by_itself"
        exit 2
    fi
    found=$(version_of "$own")
    if [ "$found" != "$version" ]; then
        complain "LIBTORCH=$LIBTORCH is libtorch ${found:-of an unknown version}; the tch backend needs $version, and computes garbage with another one" \
            "Let it name a libtorch $version. $by_itself"
        exit 2
    fi
    say "$own is libtorch $found"
    printf '%s\n' "$own"
    exit 0
}

# shellcheck disable=SC2329 # called by keep
finish() {
    printf 'INPUT ( -ltorch_cpu )\n' >"$1/lib/libtorch.so" # a linker script: the real one asks for libtorch_cuda.so
    printf '%s\n' "$version" >"$1/build-version"
}

if [ -n "${LIBTORCH:-}" ]; then use_own; fi
# CUDA's two libraries stand in libtorch_cpu.so's list; a CPU never calls them.
is_kept "$folder" "$pins" || keep "$folder" "$pins" 540 490 'torch/include/*' torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1 \
    nvidia/cu13/lib/libcudart.so.13 nvidia/cu13/lib/libcupti.so.13
printf '%s\n' "$folder"
