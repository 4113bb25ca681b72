# Sourced: the cache folder that scripts share, and words for whoever waits. The script says first who it is (me=model) and where the checkout is
# (repo), and finds here
#   cache                   the cache folder: $COROLLA_CACHE, else $XDG_CACHE_HOME/corolla, else ~/.cache/corolla
#   say, complain, fail LINE...    words on stderr; fail exits with 1
#   writable FOLDER         makes it where it is not there; fails where it cannot be written
#   lock FILE WHAT          waits for another run that does WHAT (descriptor 9); false without flock
# shellcheck shell=sh

: "${me:?the script that sources this says who it is}" "${repo:?and where the checkout is}"

cache=${COROLLA_CACHE:-${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}/corolla}
case $cache in
    /corolla) cache=$repo/.cache/corolla ;; # neither HOME nor XDG_CACHE_HOME is set
    /*) ;;
    *) cache=$PWD/$cache ;;
esac

say() { printf '%s\n' "$me: $*" >&2; }

complain() {
    say "$1"
    shift
    for line in "$@"; do printf '%*s  %s\n' "${#me}" '' "$line" >&2; done
}

fail() {
    complain "$@"
    exit 1
}

writable() {
    mkdir -p -- "$1" 2>/dev/null && [ -w "$1" ] ||
        fail "cannot write the cache folder $1" "Make it writable, or choose another one: COROLLA_CACHE=/some/folder"
}

lock() {
    command -v flock >/dev/null 2>&1 || return 1
    exec 9>"$1"
    if ! flock -n 9; then
        say "another run is $2; waiting for it"
        flock 9
    fi
}
