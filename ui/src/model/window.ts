// What of a conversation the model is shown, and how full its context is.

import type { Said, Talk } from "./values";
import type { ChatRequest } from "../api/client";

/** Tokens of a session where the model and the server would allow more. */
export const ROOM = 4096;

/** Tokens that a conversation can have. */
export function room(context: number | null | undefined, most: number): number {
  return Math.min(context ?? ROOM, most, ROOM);
}

/** The part of `shown` that the model sees. */
export function seen(shown: Said[], from: string | null): Said[] {
  const start = from === null ? 0 : shown.findIndex((one) => one.id === from);
  return shown.slice(Math.max(start, 0));
}

/** The messages of a request. Replies without a word say nothing. */
export function messages(talk: Talk, shown: Said[]): ChatRequest["messages"] {
  const system = talk.system.trim() ? [{ role: "system" as const, content: talk.system.trim() }] : [];
  const said = seen(shown, talk.from).filter((one) => one.text !== "" || one.role === "user");
  return [...system, ...said.map(({ role, text }) => ({ role, content: text }))];
}

/** Tokens that the branch has taken, as its last counted reply says; `null` before the first. */
export function taken(shown: Said[], from: string | null): number | null {
  const usage = seen(shown, from).findLast((one) => one.facts?.usage)?.facts?.usage;
  return usage ? usage.total_tokens : null;
}

/**
 * The message from which on the model should be shown the conversation, so that about `share` of its context stays free:
 * the oldest questions go first, with their replies; the last question always stays.
 */
export function shortened(shown: Said[], from: string | null, size: number, share = 0.5): string | null {
  const now = seen(shown, from);
  const letters = now.reduce((sum, one) => sum + one.text.length, 0);
  const rate = letters / Math.max(taken(shown, from) ?? letters / 4, 1);
  const questions = now.filter((one) => one.role === "user");
  const last = questions.at(-1);
  if (!last || questions.length < 2) return from;
  let left = letters;
  for (let at = 0; at < now.length; at += 1) {
    const message = now[at];
    if (message.role === "user" && at > 0 && left / rate <= size * (1 - share)) return message.id;
    if (message === last) break;
    left -= message.text.length;
  }
  return last.id;
}
