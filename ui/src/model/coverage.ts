// How the blocks of a model are covered, and the commands that add to it.

import type { ModelSwarm } from "../api/client";

/** Blocks in a row that the same number of servers host. */
export interface Run {
  start: number;
  /** Block after the last one. */
  end: number;
  servers: number;
}

/** The blocks of `swarm`, in runs of equal coverage. */
export function coverage({ blocks, servers }: Pick<ModelSwarm, "blocks" | "servers">): Run[] {
  const counts = Array.from({ length: Math.min(blocks, 10_000) }, (_, block) => servers.filter((one) => one.start <= block && block < one.end).length);
  const runs: Run[] = [];
  counts.forEach((count, block) => {
    const last = runs.at(-1);
    if (last?.servers === count) last.end = block + 1;
    else runs.push({ start: block, end: block + 1, servers: count });
  });
  return runs;
}

/** Numbers as ranges: 1, 2, 3, 7 is "1–3, 7". */
export function ranges(numbers: number[]): string {
  const runs: [number, number][] = [];
  for (const number of numbers.toSorted((one, other) => one - other)) {
    const last = runs.at(-1);
    if (last && number <= last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([start, end]) => (start === end ? `${start}` : `${start}–${end}`)).join(", ");
}

/** Whether all blocks are in the server's own process. */
export function local({ servers }: Pick<ModelSwarm, "servers">): boolean {
  return servers.length > 0 && servers.every((one) => one.peer === "in-process");
}

/** `word` as a shell takes it. */
export function quoted(word: string): string {
  return /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export const TOKEN = /^corolla1-[\w-]+$/;

/** What to run to host blocks of a model. */
export function hostCommand(token: string, file: string): string {
  return `corolla host --join ${quoted(token || "TOKEN")} --model ${quoted(file || "MODEL")} --listen /ip4/0.0.0.0/tcp/31401`;
}

/** What to run to begin a swarm for a model, and to serve it from there. */
export function startCommands(model: string, token: string, file: string): string[] {
  return [
    `corolla bootstrap --listen /ip4/0.0.0.0/tcp/31400 --identity boot.id --dht-prefix ${quoted(model)} --model ${quoted(model)}`,
    hostCommand(token, file),
    `corolla serve --join ${quoted(token || "TOKEN")} --model ${quoted(file || "MODEL")}`,
  ];
}
