#!/bin/sh
# Makes the Python environment of the reference swarm: petals in some releases, hivemind with its Go daemon, transformers. Instant where it is
# there already.
# Prints the environment's folder. Needs CPython 3.11, gcc and readelf; 1 GB to fetch, 2.5 GB on disk.
#   COROLLA_CACHE   where to keep it (default: $XDG_CACHE_HOME/corolla, else ~/.cache/corolla)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
me=interop
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
venv=$cache/petals-reference
stamp=$venv/.installed
others=$venv/versions
needed_kb=3600000 # the environment and pip's downloads side by side

is_there() {
    [ -x "$venv/bin/python" ] && cmp -s "$here/requirements.txt" "$stamp" && cmp -s "$here/versions.txt" "$others/.installed"
}

done_with() {
    printf '%s\n' "$venv"
    exit 0
}

if is_there; then done_with; fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "the reference swarm runs on x86_64 Linux only: there is no p2pd in hivemind's wheels for $(uname -s) on $(uname -m)"
python3.11 -c 'import ensurepip, venv' 2>/dev/null ||
    fail "python3.11 with venv is missing; the reference packages have no wheels for other versions" \
        "Install it (Debian 12: apt-get install python3.11 python3.11-venv; elsewhere: pyenv install 3.11) and run this again."
for tool in gcc readelf; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is missing" "Install it (Debian, Ubuntu: apt-get install gcc binutils) and run this again."
done
writable "$cache"

# Of two runs at the same time the second one waits, then finds the environment.
if lock "$cache/.petals-reference.lock" "installing the environment"; then
    if is_there; then done_with; fi
fi

if [ ! -x "$venv/bin/python" ]; then
    free_kb=$(df -Pk -- "$cache" | awk 'NR == 2 { print $4 }')
    [ "$free_kb" -ge "$needed_kb" ] ||
        fail "the disk of $cache has $((free_kb / 1000)) MB free; $((needed_kb / 1000)) MB are needed" \
            "Free some space, or choose another disk: COROLLA_CACHE=/some/folder"
fi
begun=$(date +%s)

install() {
    "$venv/bin/python" -m pip install --no-deps --quiet --disable-pip-version-check --no-input --retries 3 --timeout 30 "$@" >&2 9>&- ||
        fail "pip could not install the pinned packages; its own words stand above" \
            "Check the network (pip reads HTTPS_PROXY and PIP_INDEX_URL) and run this again; what is there already is kept."
}

if ! cmp -s "$here/requirements.txt" "$stamp"; then
    say "installing the reference environment into $venv (1 GB to fetch, some minutes)"
    rm -f -- "$stamp"
    python3.11 -m venv "$venv" || fail "cannot make the environment $venv"
    install -r "$here/requirements.txt"
    "$venv/bin/python" "$here/../golden/stub_cuda.py" "$venv" >/dev/null || fail "cannot build the stand-ins for the CUDA libraries"
    "$venv/bin/python" -W ignore "$here/node.py" versions >&2 9>&- ||
        fail "the environment $venv does not import; remove it and run this again"
    cp -- "$here/requirements.txt" "$stamp"
fi
rm -rf -- "$others"
grep -v '^#' "$here/versions.txt" | while read -r pin; do
    install --target "$others/${pin#*==}" "$pin" </dev/null
    SWARM_PETALS=$others/${pin#*==} "$venv/bin/python" -W ignore "$here/node.py" versions </dev/null >&2 9>&- ||
        fail "$pin does not import"
done
cp -- "$here/versions.txt" "$others/.installed"
say "installed in $(($(date +%s) - begun)) s: $(du -sh -- "$venv" | cut -f1) in $venv"
done_with
