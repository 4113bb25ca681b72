#!/bin/sh
# Lints openapi.yaml and openapi-3.1.yaml with Redocly's recommended rules; a warning is a fault.
set -eu
cd -- "$(dirname -- "$0")/.."
sh scripts/npm-install.sh tests/typed-clients
cd -- tests/typed-clients
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true
for file in openapi.yaml openapi-3.1.yaml; do
    report=$(node_modules/.bin/redocly lint --format=json --config redocly.yaml "../../$file" 2>/dev/null) || true
    printf '%s' "$report" | node -e '
        const { totals, problems } = JSON.parse(require("fs").readFileSync(0, "utf8"));
        for (const { severity, ruleId, message, location } of problems)
            console.error(`${process.argv[1]}: ${severity}: ${ruleId}: ${message} (${location[0]?.pointer})`);
        process.exit(totals.errors + totals.warnings + totals.ignored ? 1 : 0);' "$file" ||
        { echo "lint-spec: $file has faults; they stand above" >&2 && exit 1; }
done
echo "lint-spec: openapi.yaml and openapi-3.1.yaml keep all recommended rules"
