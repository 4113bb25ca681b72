import { expect, test } from "vitest";

import { events } from "../api/events";
import type { ModelSwarm, SwarmServer } from "../api/client";
import { de } from "../i18n/de";
import { en } from "../i18n/en";
import { fill } from "../i18n/words.svelte";
import { coverage, hostCommand, quoted, ranges, TOKEN } from "./coverage";
import { afterwards, meanwhile, rateOf, Stopwatch } from "./speed";
import { CHATBOT, newTalk, presetOf, PRESETS, type Facts, type Said } from "./values";
import { messages, room, shortened, taken } from "./window";

test("German says everything that English does, with the same values in it", () => {
  const values = (text: string) => new Set(text.match(/\{\w+\}/g) ?? []);
  for (const [key, text] of Object.entries(en)) {
    const other = de[key as keyof typeof en];
    expect(other.trim(), key).not.toBe("");
    expect(values(other), key).toEqual(values(text));
    expect(other.split("|").length, key).toBe(text.split("|").length);
  }
  expect(Object.keys(de).sort()).toEqual(Object.keys(en).sort());
});

test("values are put into a text, once each", () => {
  expect(fill("{n} token|{n} tokens", { n: 1 })).toBe("1 token");
  expect(fill("{n} token|{n} tokens", { n: 2 })).toBe("2 tokens");
  expect(fill("{a} {b}", { a: "{b}", b: "x" })).toBe("{b} x");
});

test("events are whole, however the bytes come", async () => {
  const bytes = new TextEncoder().encode(": hello\n\ndata: {\"ä\"}\r\n\r\ndata: a\ndata: b\n\n");
  for (const size of [1, 3, bytes.length]) {
    const body = new ReadableStream<Uint8Array>({
      start(control) {
        for (let at = 0; at < bytes.length; at += size) control.enqueue(bytes.slice(at, at + size));
        control.close();
      },
    });
    const seen = [];
    for await (const data of events(body, () => new Error("cut"))) seen.push(data);
    expect(seen).toEqual(['{"ä"}', "a\nb"]);
  }
});

test("speed leaves out the first token, which was waited for", () => {
  const watch = new Stopwatch(0);
  for (const at of [5000, 5100, 5200, 5300]) watch.more(at);
  expect(watch.rate()).toBeCloseTo(10);
  expect(watch.facts("m", null, null)).toMatchObject({ first: 5000, writing: 300, tokens: 4 });
  expect(rateOf(watch.facts("m", null, null))).toBeCloseTo(10);
});

const server = (peer: string, start: number, end: number, more: Partial<SwarmServer> = {}): SwarmServer => ({ peer, start, end, rps: 1, ...more });
const swarm = (...servers: SwarmServer[]): ModelSwarm => ({ model: "m", blocks: 10, missing: [], route: servers, servers });
const slow: Facts = { model: "m", first: 100, writing: 20_000, tokens: 11, usage: null, route: null };

test("a slow reply says why: who was lost, who is relayed, which hop", () => {
  const hop = { peer: "far", start: 0, end: 10, latest_ms: 1500 };
  expect(afterwards({ ...slow, writing: 1000 }, undefined)).toBeNull();
  expect(afterwards(slow, undefined)).toEqual({ why: "busy" });
  expect(afterwards({ ...slow, route: { hops: [hop], failovers: [] } }, swarm(server("far", 0, 10)))).toMatchObject({ why: "hop", peer: "far" });
  expect(afterwards({ ...slow, route: { hops: [hop], failovers: [] } }, swarm(server("far", 0, 10, { relayed: true })))).toMatchObject({ why: "relayed" });
  const lost = { position: 3, lost: hop, why: "gone", pause_ms: 15_000, by: [hop] };
  expect(afterwards({ ...slow, route: { hops: [hop], failovers: [lost] } }, undefined)).toMatchObject({ why: "replaced", ms: 15_000 });
  const usage = { prompt_tokens: 1000, completion_tokens: 11, total_tokens: 1011, prompt_tokens_details: { cached_tokens: 10 } };
  expect(afterwards({ ...slow, first: 9000, usage }, undefined)).toEqual({ why: "reading", tokens: 990 });
  expect(meanwhile(swarm(server("a", 0, 10, { rtt_ms: 500 })))).toMatchObject({ why: "far", ms: 500 });
  expect(meanwhile(undefined)).toEqual({ why: "busy" });
});

test("coverage comes in runs, and numbers in ranges", () => {
  expect(coverage({ blocks: 6, servers: [server("a", 0, 4), server("b", 2, 5)] })).toEqual([
    { start: 0, end: 2, servers: 1 }, { start: 2, end: 4, servers: 2 }, { start: 4, end: 5, servers: 1 }, { start: 5, end: 6, servers: 0 },
  ]);
  expect(ranges([7, 1, 2, 3])).toBe("1–3, 7");
});

test("a command is safe to paste, whatever was typed into it", () => {
  expect(quoted("models/a.gguf")).toBe("models/a.gguf");
  expect(quoted("it's; rm -rf /")).toBe("'it'\\''s; rm -rf /'");
  expect(hostCommand("corolla1-abc", "my model.gguf")).toBe("corolla host --join corolla1-abc --model 'my model.gguf' --listen /ip4/0.0.0.0/tcp/31401");
  expect([TOKEN.test("corolla1-eyJ_-9"), TOKEN.test("corolla1-a b"), TOKEN.test("$(x)")]).toEqual([true, false, false]);
});

test("a preset is known by its numbers, whatever the longest reply", () => {
  for (const name of Object.keys(PRESETS)) expect(presetOf({ ...PRESETS[name], max_tokens: 5 })).toBe(name);
  expect(presetOf({ ...CHATBOT, temperature: 0.8 })).toBe("own");
});

function branch(turns: number, usage = 0): Said[] {
  const counts = { prompt_tokens: usage, completion_tokens: 0, total_tokens: usage, prompt_tokens_details: { cached_tokens: 0 } };
  return Array.from({ length: turns * 2 }, (_, at): Said => ({
    id: `${at}`, parent: at ? `${at - 1}` : null, role: at % 2 ? "assistant" : "user", text: "x".repeat(100), at: 0, state: "done",
    facts: at % 2 && usage ? { ...slow, usage: counts } : undefined,
  }));
}

test("the context is what the last reply counted", () => {
  expect(taken(branch(2), null)).toBeNull();
  expect(taken(branch(2, 300), null)).toBe(300);
  expect([room(null, 8192), room(2048, 8192), room(8192, 1000)]).toEqual([4096, 2048, 1000]);
});

test("a conversation that is full goes on from a question, with half of its context free", () => {
  const shown = branch(10, 1000);
  expect(shortened(shown, null, 1000)).toBe("10");
  expect(shortened(shown, "10", 1000)).toBe("16");
  expect(shortened(branch(1, 1000), null, 100)).toBeNull();
  const talk = { ...newTalk(null), system: "Be kind.", from: "18" };
  expect(messages(talk, shown).map((one) => one.role)).toEqual(["system", "user", "assistant"]);
});
