#!/bin/sh
# Installs the npm packages that the lock files of these folders name, unless they are there: npm-install.sh FOLDER...
set -eu
cd -- "$(dirname -- "$0")/.."

fail() {
    printf '%s\n' "npm-install: $*" >&2
    exit 1
}

command -v npm >/dev/null 2>&1 || fail "npm is missing; \`make tools\` installs it on Debian and its kin"
node -e 'const [major, minor] = process.versions.node.split("."); process.exit(+major > 20 || (+major === 20 && +minor >= 19) ? 0 : 1)' ||
    fail "node is $(node --version); the page needs 20.19 or newer"
for folder in "$@"; do
    cmp -s "$folder/package-lock.json" "$folder/node_modules/.installed" && continue
    printf '%s\n' "npm-install: npm ci in $folder"
    (cd -- "$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) ||
        fail "npm ci failed in $folder; its last words stand above. Check the network, and run this again."
    cp "$folder/package-lock.json" "$folder/node_modules/.installed"
done
