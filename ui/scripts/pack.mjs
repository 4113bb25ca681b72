// Packs what Vite built (.build) into dist, the folder that is committed and embedded: a gzip file for each.
// With --check it writes nothing and fails where dist holds anything else than what was built. Both keep to the budget.

import { readFileSync, readdirSync, rmSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";

/** Bytes that a first visit may load, and that all there is may have, both compressed. */
const FIRST = 120_000;
const ALL = 400_000;

const here = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const [built, dist] = [path.join(here, ".build"), path.join(here, "dist")];

function files(folder) {
  const found = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return found.map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name))).sort();
}

const names = files(built);
const packed = new Map(names.map((name) => [name, gzipSync(readFileSync(path.join(built, name)), { level: 9 })]));

const index = readFileSync(path.join(built, "index.html"), "utf8");
const first = ["index.html", ...[...index.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map((found) => found[1])];
const sum = (some) => some.reduce((bytes, name) => bytes + packed.get(name).length, 0);
for (const [what, some, most] of [["first load", first, FIRST], ["all files", names, ALL]]) {
  console.log(`${what}: ${sum(some)} of ${most} bytes, compressed, in ${some.length} files`);
  if (sum(some) > most) fail(`${what} is over its budget: ${some.map((name) => `${name} ${packed.get(name).length}`).join(", ")}`);
}

if (process.argv.includes("--check")) {
  const kept = files(dist).map((name) => name.replace(/\.gz$/, ""));
  const strangers = kept.filter((name) => !packed.has(name));
  const different = names.filter((name) => !kept.includes(name) || !same(name));
  if (strangers.length + different.length) {
    fail(`ui/dist is not what ui/src builds: ${[...strangers, ...different].join(", ")}. Run \`make ui\` and commit ui/dist.`);
  }
  console.log("ui/dist is what ui/src builds");
} else {
  rmSync(dist, { recursive: true, force: true });
  for (const [name, bytes] of packed) {
    mkdirSync(path.dirname(path.join(dist, name)), { recursive: true });
    writeFileSync(path.join(dist, `${name}.gz`), bytes);
  }
}

/** Compared uncompressed: two versions of zlib may pack the same file differently. */
function same(name) {
  return gunzipSync(readFileSync(path.join(dist, `${name}.gz`))).equals(readFileSync(path.join(built, name)));
}

function fail(why) {
  console.error(`pack: ${why}`);
  process.exit(1);
}
