# Sourced after scripts/cache.sh: a Python environment of pinned packages in the cache folder.
#   python_env NAME REQUIREMENTS [PYTHON]    makes it, with python3 or PYTHON, where it is not there or other packages are pinned, and sets venv
#                                            to its folder
# shellcheck shell=sh

python_env() {
    venv=$cache/$1
    python=${3:-python3}
    if [ -x "$venv/bin/python" ] && cmp -s "$2" "$venv/.installed"; then return 0; fi
    "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python of 3.11 or newer with venv is missing" "Install it (Debian: apt-get install $python $python-venv) and run this again."
    writable "$cache"
    if lock "$cache/.$1.lock" "installing $1"; then
        if [ -x "$venv/bin/python" ] && cmp -s "$2" "$venv/.installed"; then
            exec 9>&-
            return 0
        fi
    fi
    say "installing $(grep -c == "$2") Python packages into $venv"
    "$python" -m venv --clear "$venv" || fail "cannot make the environment $venv"
    "$venv/bin/python" -m pip install --no-deps --quiet --disable-pip-version-check --no-input --retries 3 --timeout 30 -r "$2" >&2 9>&- ||
        fail "pip could not install the pinned packages; its own words stand above" \
            "Check the network (pip reads HTTPS_PROXY and PIP_INDEX_URL) and run this again."
    cp -- "$2" "$venv/.installed"
    exec 9>&-
}
