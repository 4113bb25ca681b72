// The way of a reply that was written in several stretches.

import type { ReplyRoute } from "../api/client";

/** Failovers that are kept of one reply. */
const MOST = 32;

/** The route of a reply that went on: its latest hops, and all servers that were lost on the way. */
export function further(before: ReplyRoute | null | undefined, now: ReplyRoute | null | undefined): ReplyRoute | null {
  if (!before || !now) return now ?? before ?? null;
  return { hops: now.hops, failovers: [...before.failovers, ...now.failovers].slice(-MOST) };
}
