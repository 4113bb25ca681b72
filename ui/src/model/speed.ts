// How fast a reply is written, and why it is slow.

import type { ModelSwarm, ReplyRoute } from "../api/client";
import { further } from "./route";
import type { Facts } from "./values";

/** Tokens a second below which a word of explanation is due. */
export const SLOW = 1;
/** Milliseconds before the first token after which the wait is explained. */
export const LONG_WAIT = 6000;

/** Why a reply is slow: a reason, and the server it is about. */
export interface Reason {
  why: "reading" | "replaced" | "relayed" | "far" | "hop" | "busy";
  peer?: string;
  ms?: number;
  tokens?: number;
}

/** Clocks one reply. Times are milliseconds of any clock. */
export class Stopwatch {
  first: number | null = null;
  last: number | null = null;
  tokens = 0;

  constructor(readonly begun: number) {}

  more(now: number, tokens = 1): void {
    this.first ??= now;
    this.last = now;
    this.tokens += tokens;
  }

  /** Tokens a second. The first is waited for, not written, so it does not count. */
  rate(now = this.last ?? 0): number | null {
    if (this.first === null || this.tokens < 3 || now - this.first < 1) return null;
    return ((this.tokens - 1) * 1000) / (now - this.first);
  }

  facts(model: string | null, usage: Facts["usage"], route: ReplyRoute | null): Facts {
    const first = this.first === null ? null : this.first - this.begun;
    const writing = this.first === null || this.last === null ? null : this.last - this.first;
    return { model, first, writing, tokens: usage?.completion_tokens ?? this.tokens, usage, route };
  }
}

/** The facts of a reply that went on after it had `before`. */
export function joined(before: Facts | undefined, now: Facts): Facts {
  if (!before) return now;
  return {
    ...now,
    first: before.first ?? now.first,
    writing: before.writing === null && now.writing === null ? null : (before.writing ?? 0) + (now.writing ?? 0),
    tokens: before.tokens + now.tokens,
    route: further(before.route, now.route),
  };
}

/** Tokens a second of a finished reply. */
export function rateOf({ tokens, writing }: Facts): number | null {
  return tokens > 2 && writing ? ((tokens - 1) * 1000) / writing : null;
}

/** Why a reply that is finished was slow; `null` where it was not, or nothing tells. */
export function afterwards(facts: Facts, swarm: ModelSwarm | undefined): Reason | null {
  const rate = rateOf(facts);
  if (facts.first !== null && facts.first > LONG_WAIT && facts.usage) {
    const { prompt_tokens: all, prompt_tokens_details: details } = facts.usage;
    const computed = all - details.cached_tokens;
    if (computed > 64 && computed * 2 > all) return { why: "reading", tokens: computed };
  }
  if (rate === null || rate >= SLOW) return null;
  const lost = facts.route?.failovers ?? [];
  const pause = lost.reduce((sum, one) => sum + one.pause_ms, 0);
  if (facts.writing && pause * 3 > facts.writing) return { why: "replaced", peer: lost[0].lost.peer, ms: pause };
  const slowest = facts.route?.hops.toSorted((one, other) => other.latest_ms - one.latest_ms)[0];
  if (!slowest || slowest.latest_ms * rate < 300) return { why: "busy" };
  const server = swarm?.servers.find((one) => one.peer === slowest.peer);
  return { why: server?.relayed ? "relayed" : "hop", peer: slowest.peer, ms: slowest.latest_ms };
}

/** Why a reply that is being written is slow, as far as the swarm's map tells. */
export function meanwhile(swarm: ModelSwarm | undefined): Reason {
  const route = swarm?.route.map((hop) => swarm.servers.find((one) => one.peer === hop.peer)) ?? [];
  const relayed = route.find((one) => one?.relayed);
  if (relayed) return { why: "relayed", peer: relayed.peer };
  const far = route.toSorted((one, other) => (other?.rtt_ms ?? 0) - (one?.rtt_ms ?? 0))[0];
  if (far?.rtt_ms && far.rtt_ms > 200) return { why: "far", peer: far.peer, ms: far.rtt_ms };
  return { why: "busy" };
}
