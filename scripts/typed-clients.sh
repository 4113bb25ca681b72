#!/bin/sh
# Generates clients from openapi.yaml in TypeScript, Python and Rust, compiles them, and uses each against the given binary:
# typed-clients.sh BINARY [typescript] [python] [rust]
set -eu
me=typed-clients
repo=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/cache.sh
. "$repo/scripts/cache.sh"
# shellcheck source=scripts/python-env.sh
. "$repo/scripts/python-env.sh"
# shellcheck source=scripts/serve-for.sh
. "$repo/scripts/serve-for.sh"
binary=$1
shift
[ "$#" -gt 0 ] || set -- typescript python rust
here=$repo/tests/typed-clients
cd -- "$repo"

made=$("$binary" key --name clients)
key=$(printf '%s\n' "$made" | grep '^corolla-')
serve_for "$binary" "$(printf '%s\n' "$made" | sed -n '/^\[\[api_keys/,$p')"

for language; do
    case $language in
        typescript)
            sh "$repo/scripts/npm-install.sh" tests/typed-clients
            cd -- "$here"
            node_modules/.bin/openapi-typescript "$repo/openapi.yaml" --default-non-nullable false \
                -o typescript/generated/corolla.d.ts >/dev/null
            node_modules/.bin/tsc -p typescript
            node typescript/generated/js/client.js "$base" "$key"
            ;;
        python)
            python_env typed-clients "$here/python/requirements.txt"
            cd -- "$here/python"
            PATH=$venv/bin:$PATH openapi-python-client generate --path "$repo/openapi.yaml" --config config.yaml --output-path corolla_client --meta none \
                --overwrite --fail-on-warning >"$work/python.log" || fail "the client has faults; see above$(cat "$work/python.log" >&2)"
            "$venv/bin/python" -W error::SyntaxWarning client.py "$base" "$key"
            ;;
        rust)
            python_env typed-clients "$here/python/requirements.txt"
            cd -- "$here/rust"
            "$venv/bin/python" reduce.py "$repo/openapi.yaml" openapi.json
            cargo run --quiet --locked --target-dir "$repo/target/typed-clients" -- "$base" "$key"
            ;;
        *) fail "$language is none of typescript, python, rust" ;;
    esac
done
