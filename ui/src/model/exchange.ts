// Conversations as files: JSON keeps everything, Markdown what is shown. Both can be read again.

import { path } from "./tree";
import { CHATBOT, newId, newTalk, type Facts, type Said, type Sampling, type Talk } from "./values";

/** Bounds on a file that is read. */
export const MAX_BYTES = 64 * 1024 * 1024;
const MAX_TALKS = 10_000;
const MAX_MESSAGES = 100_000;

const FORMAT = "corolla-chats";
const MARK = /^<!-- corolla:(user|assistant|system) -->$/;

/** A file that is not what it should be. `what` is a key of the translations. */
export class BadFile extends Error {
  constructor(readonly what: "file.large" | "file.json" | "file.format" | "file.empty") {
    super(what);
  }
}

export function toJson(talks: Talk[]): string {
  return JSON.stringify({ format: FORMAT, version: 1, chats: talks.map(({ writer: _writer, ...talk }) => talk) }, null, 1);
}

/** What is shown of a conversation, with marks from which it can be read again. */
export function toMarkdown(talk: Talk, names: Record<"user" | "assistant" | "system", string>): string {
  const system = talk.system ? [part("system", names.system, talk.system)] : [];
  const said = path(talk).map((one) => part(one.role, names[one.role], one.text));
  return [`# ${oneLine(talk.title)}`, ...system, ...said].join("\n\n") + "\n";
}

function part(role: string, name: string, text: string): string {
  const safe = text.replaceAll("<!-- corolla:", "<!-- corolla\\:");
  return `<!-- corolla:${role} -->\n\n## ${name}\n\n${safe}`;
}

/** The conversations in a file, with new names where `known` has theirs. Throws `BadFile`. */
export function read(text: string, known: string[]): Talk[] {
  if (text.length > MAX_BYTES) throw new BadFile("file.large");
  const talks = /^\s*[{[]/.test(text) ? fromJson(text) : [fromMarkdown(text)];
  return talks.map((talk) => (known.includes(talk.id) ? { ...talk, id: newId() } : talk));
}

function fromJson(text: string): Talk[] {
  let all: unknown;
  try {
    all = JSON.parse(text);
  } catch {
    throw new BadFile("file.json");
  }
  const { format, chats } = all as { format?: unknown; chats?: unknown };
  if (format !== FORMAT || !Array.isArray(chats)) throw new BadFile("file.format");
  if (chats.length > MAX_TALKS) throw new BadFile("file.large");
  const talks = chats.map(talkOf).filter((talk) => talk.messages.length > 0);
  if (!talks.length) throw new BadFile("file.empty");
  return talks;
}

function fromMarkdown(text: string): Talk {
  const talk = newTalk(null);
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  talk.title = lines[0]?.startsWith("# ") ? lines[0].slice(2).trim() : "";
  talk.named = talk.title !== "";
  let parent: string | null = null;
  for (let at = 0; at < lines.length; at += 1) {
    const role = MARK.exec(lines[at])?.[1];
    if (!role) continue;
    let end = at + 1;
    while (end < lines.length && !MARK.test(lines[end])) end += 1;
    const body = lines.slice(at + 1, end).join("\n").replace(/^\n## .*\n\n/, "").replace(/\n$/, "");
    const words = body.replaceAll("<!-- corolla\\:", "<!-- corolla:");
    if (role === "system") talk.system = words;
    else {
      const id = newId();
      talk.messages.push({ id, parent, role: role as Said["role"], text: words, at: talk.created, state: "done" });
      parent = id;
    }
    at = end - 1;
  }
  if (!talk.messages.length) throw new BadFile("file.format");
  return talk;
}

/** What `given` says, in the shape of a conversation; what has another shape is left out. */
function talkOf(given: unknown): Talk {
  const it = (typeof given === "object" && given !== null ? given : {}) as Record<string, unknown>;
  const talk = newTalk(text(it.model) || null, it.mode === "raw" ? "raw" : "chat");
  talk.id = /^[\w-]{1,64}$/.test(text(it.id)) ? text(it.id) : talk.id;
  talk.title = oneLine(text(it.title));
  talk.named = it.named === true;
  talk.system = text(it.system);
  if (typeof it.stop === "string") talk.stop = it.stop;
  talk.created = count(it.created) ?? talk.created;
  talk.changed = count(it.changed) ?? talk.changed;
  talk.sampling = samplingOf(it.sampling);
  const ids = new Set<string>();
  for (const one of Array.isArray(it.messages) ? it.messages.slice(0, MAX_MESSAGES) : []) {
    const said = saidOf(one, ids);
    if (!said) continue;
    ids.add(said.id);
    talk.messages.push(said);
  }
  const chosen = (typeof it.chosen === "object" && it.chosen !== null ? it.chosen : {}) as Record<string, unknown>;
  for (const [key, id] of Object.entries(chosen)) {
    if ((key === "" || ids.has(key)) && ids.has(text(id))) talk.chosen[key] = text(id);
  }
  talk.from = ids.has(text(it.from)) ? text(it.from) : null;
  return talk;
}

/** A message whose parent came before it, so that no circle can be. */
function saidOf(given: unknown, before: Set<string>): Said | null {
  if (typeof given !== "object" || given === null) return null;
  const it = given as Record<string, unknown>;
  const fine = /^[\w-]{1,64}$/.test(text(it.id)) && !before.has(text(it.id)) && typeof it.text === "string";
  const role = it.role === "user" || it.role === "assistant" ? it.role : null;
  const parent = it.parent === null || it.parent === undefined ? null : text(it.parent);
  if (!fine || !role || (parent !== null && !before.has(parent))) return null;
  const state = (["done", "stopped", "cut"] as const).find((one) => one === it.state) ?? (it.state === "writing" ? "cut" : "done");
  const said: Said = { id: text(it.id), parent, role, text: text(it.text), at: count(it.at) ?? 0, state };
  const facts = factsOf(it.facts);
  if (facts) said.facts = facts;
  return said;
}

/** The counts of a reply. Its route is left behind: its servers mean nothing elsewhere. */
function factsOf(given: unknown): Facts | null {
  if (typeof given !== "object" || given === null) return null;
  const it = given as Record<string, unknown>;
  return {
    model: text(it.model) || null, first: count(it.first), writing: count(it.writing), tokens: count(it.tokens) ?? 0, usage: null, route: null,
  };
}

function samplingOf(given: unknown): Sampling {
  const it = (typeof given === "object" && given !== null ? given : {}) as Record<string, unknown>;
  const within = (key: string, low: number, high: number) => {
    const value = it[key];
    return typeof value === "number" && value >= low && value <= high ? value : null;
  };
  return {
    temperature: within("temperature", 0, 100) ?? CHATBOT.temperature,
    top_p: "top_p" in it ? within("top_p", 0.01, 1) : CHATBOT.top_p,
    top_k: within("top_k", 1, 1e6),
    min_p: within("min_p", 0, 1),
    repetition_penalty: within("repetition_penalty", 0.01, 100) ?? 1,
    max_tokens: Math.round(within("max_tokens", 1, 1e6) ?? CHATBOT.max_tokens),
  };
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function count(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : null;
}

/** One line without control and direction characters: fit for a title. */
export function oneLine(words: string, most = 80): string {
  const line = words.replace(/[\p{Cc}\p{Cf}]+/gu, " ").replace(/\s+/g, " ").trim();
  return [...line].length > most ? `${[...line].slice(0, most - 1).join("")}…` : line;
}
