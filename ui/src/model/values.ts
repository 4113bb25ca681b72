// What a conversation is made of: plain values, as they are kept and exported.

import type { ChatUsage, ReplyRoute } from "../api/client";

export type Role = "user" | "assistant";

/** How a reply stands. One that is `writing` in what was kept was broken off by a reload. */
export type State = "done" | "writing" | "stopped" | "cut";

/** Speed and route of one reply. */
export interface Facts {
  model: string | null;
  /** Milliseconds to the first token, and from it to the last. */
  first: number | null;
  writing: number | null;
  tokens: number;
  usage: ChatUsage | null;
  route: ReplyRoute | null;
}

export interface Said {
  id: string;
  /** The message that this one follows; `null` for a first one. */
  parent: string | null;
  role: Role;
  text: string;
  at: number;
  state: State;
  /** The seed of a reply, with which it can be written again. */
  seed?: number;
  facts?: Facts;
}

export interface Sampling {
  temperature: number;
  top_p: number | null;
  top_k: number | null;
  min_p: number | null;
  repetition_penalty: number;
  max_tokens: number;
}

export type Mode = "chat" | "raw";

export interface Talk {
  id: string;
  title: string;
  /** Whether a person gave the title. */
  named: boolean;
  mode: Mode;
  model: string | null;
  system: string;
  /** In a raw text: where a reply ends. */
  stop: string;
  sampling: Sampling;
  messages: Said[];
  /** For each message with several that follow it, the one that is shown; "" stands for the beginning. */
  chosen: Record<string, string>;
  /** The first message that the model is still shown; `null` for all. */
  from: string | null;
  created: number;
  changed: number;
  /** The tab that wrote last, so that a reload can take up a reply that it broke off. */
  writer?: string;
}

/** A line of the history. */
export interface Head {
  id: string;
  title: string;
  changed: number;
  count: number;
}

/** The chatbot settings of Petals Chat. */
export const CHATBOT: Sampling = {
  temperature: 0.75, top_p: 0.9, top_k: null, min_p: null, repetition_penalty: 1, max_tokens: 1024,
};

export const PRESETS: Record<string, Sampling> = {
  chatbot: CHATBOT,
  exact: { ...CHATBOT, temperature: 0, top_p: null },
  steady: { ...CHATBOT, temperature: 0.4, top_p: 0.9 },
  lively: { ...CHATBOT, temperature: 1.1, top_p: null, min_p: 0.05 },
};

/** The name of the preset that `sampling` is, or `own`. */
export function presetOf(sampling: Sampling): string {
  const { max_tokens: _any, ...shape } = sampling;
  const same = (preset: Sampling) => Object.entries(shape).every(([key, value]) => preset[key as keyof Sampling] === value);
  return Object.keys(PRESETS).find((name) => same(PRESETS[name])) ?? "own";
}

/** A name for a new thing. Unlike `randomUUID`, also where the page came over plain HTTP. */
export function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

export function newTalk(model: string | null, mode: Mode = "chat"): Talk {
  const now = Date.now();
  return {
    id: newId(), title: "", named: false, mode, model, system: "", stop: "\n\n", sampling: { ...CHATBOT },
    messages: [], chosen: {}, from: null, created: now, changed: now,
  };
}

/** When today began. */
export function midnight(): number {
  return new Date().setHours(0, 0, 0, 0);
}

export function headOf({ id, title, changed, messages }: Talk): Head {
  return { id, title, changed, count: messages.length };
}
