import { expect, test } from "vitest";

import { ApiError, v1Error, type ChatRequest, type Piece, type Server, type Step } from "../api/client";
import { Broken, cutAt, PAUSES, Writer } from "./reply";
import { END, Scripted } from "./scripted";
import { CHATBOT } from "./values";

function stage(server: Server) {
  const [seen, waits] = [[] as string[], [] as number[]];
  let healed = 0;
  const writer = new Writer(server, () => 0, (ms, signal) => {
    waits.push(ms);
    return signal.aborted ? Promise.reject(new Error("stopped")) : Promise.resolve();
  });
  const on = { text: (text: string) => void seen.push(text), healing: () => void healed++ };
  return { writer, on, seen, waits, healed: () => healed };
}

const request = { messages: [{ role: "user" as const, content: "Hi" }], seed: 7, model: "m" } as ChatRequest;
const FRESH = { text: "", tokens: 0 };
const live = () => new AbortController().signal;
const lost = () => new ApiError("cut", "the connection broke off");

test("a reply comes in pieces, and its session is used again", async () => {
  const server = new Scripted([["Hel", "lo", END], ["again", END]]);
  const { writer, on, seen } = stage(server);
  expect(await writer.chat(request, 100, FRESH, live(), on)).toEqual({ text: "Hello", finish: "stop", usage: null, route: null });
  await writer.chat(request, 100, FRESH, live(), on);
  expect(seen).toEqual(["Hel", "Hello", "again"]);
  expect([server.opened, server.asked[1].session_id]).toEqual([1, "s1"]);
});

test("an expired session is replaced without a word", async () => {
  const server = new Scripted([[new ApiError("session_gone", "expired")], ["fine", END]]);
  const { writer, on, healed } = stage(server);
  expect((await writer.chat(request, 100, FRESH, live(), on)).text).toBe("fine");
  expect([server.opened, healed()]).toEqual([2, 0]);
});

test("a lost connection is taken up after the last word that came, with as many tokens as are left", async () => {
  const usage = { prompt_tokens: 12, completion_tokens: 2, total_tokens: 14, prompt_tokens_details: { cached_tokens: 0 } };
  const end: Piece = { finish: "length", usage, route: null };
  const server = new Scripted([["one", " two", lost()], [new ApiError("unreachable", "gone")], [" three", " four", end]]);
  const { writer, on, seen, waits, healed } = stage(server);
  const written = await writer.chat({ ...request, max_tokens: 4 }, 100, FRESH, live(), on);
  expect(written).toMatchObject({ text: "one two three four", finish: "length", usage: { prompt_tokens: 10, completion_tokens: 4, total_tokens: 14 } });
  expect(seen).toEqual(["one", "one two", "one two three", "one two three four"]);
  expect(server.asked.map((one) => [one.messages.length, one.continue_final_message, one.max_tokens])).toEqual([
    [1, undefined, 4], [2, true, 2], [2, true, 2],
  ]);
  expect(server.asked[2].messages[1]).toEqual({ role: "assistant", content: "one two" });
  expect(server.asked[2].seed).not.toBe(server.asked[0].seed);
  expect([waits, healed()]).toEqual([PAUSES.slice(0, 2), 2]);
});

test("a reply that was broken off goes on; one that had all its tokens is over", async () => {
  const server = new Scripted([[" two", { ...END, finish: "length" } as Piece]]);
  const { writer, on, seen } = stage(server);
  const begun = { text: "one", tokens: 3 };
  expect(await writer.chat({ ...request, max_tokens: 10 }, 100, begun, live(), on)).toMatchObject({ text: "one two", finish: "full" });
  expect([seen, server.asked[0].max_tokens]).toEqual([["one two"], 7]);
  expect(await writer.chat({ ...request, max_tokens: 3 }, 100, begun, live(), on)).toMatchObject({ text: "one", finish: "length" });
  expect(server.asked.length).toBe(1);
});

test("the route is known to whoever stops, and keeps who was lost over several stretches", async () => {
  const hop = { peer: "a", start: 0, end: 2, latest_ms: 1 };
  const route = (peer: string, ...lost: string[]) => ({
    hops: [{ ...hop, peer }], failovers: lost.map((peer) => ({ position: 1, lost: { ...hop, peer }, why: "gone", pause_ms: 1, by: [hop] })),
  });
  const abort = new AbortController();
  const server = new Scripted([[{ text: "one", route: route("b", "a") }, lost()], [{ text: " two", route: route("c") }, { text: " three" }, " four"]]);
  const { writer, on } = stage(server);
  const written = await writer.chat(request, 100, FRESH, abort.signal, { ...on, text: (text) => void (text.endsWith("three") && abort.abort()) });
  expect(written).toEqual({ text: "one two three", finish: null, usage: null, route: route("c", "a") });
});

test("a server that loads its model after a restart is waited for", async () => {
  const server = new Scripted([["a", lost()], [new ApiError("unavailable", "loading")], ["b", END]]);
  const { writer, on } = stage(server);
  expect((await writer.chat(request, 100, FRESH, live(), on)).text).toBe("ab");
});

test("what cannot be healed is told, with the words that came", async () => {
  const forever = new Scripted([["some", lost()], ...PAUSES.map(() => [lost()])]);
  const { writer, on, waits } = stage(forever);
  const broken = await writer.chat(request, 100, FRESH, live(), on).catch((error: unknown) => error);
  expect(broken).toBeInstanceOf(Broken);
  expect([(broken as Broken).text, waits.length]).toEqual(["some", PAUSES.length]);
  const refused = new Scripted([[new ApiError("context_length_exceeded", "too long")]]);
  await expect(stage(refused).writer.chat(request, 100, FRESH, live(), on)).rejects.toBeInstanceOf(Broken);
});

test("a full server is asked again when it says so, and not for ever", async () => {
  const busy = (code = "busy") => [new ApiError(code, "full", 2)];
  const server = new Scripted([busy(), busy("too_many_requests"), ["fine", END]]);
  const { writer, on, waits } = stage(server);
  await writer.chat(request, 100, FRESH, live(), on);
  expect(waits).toEqual([2000, 2000]);
  const full = stage(new Scripted([busy(), busy(), busy(), busy()]));
  await expect(full.writer.chat(request, 100, FRESH, live(), on)).rejects.toBeInstanceOf(Broken);
});

test("without a session a chat goes on, and a raw text says why not", async () => {
  const shut = () => new ApiError("too_many_sessions", "full");
  const server = new Scripted([["fine", END]], [], [shut()]);
  const { writer, on } = stage(server);
  expect((await writer.chat(request, 100, FRESH, live(), on)).text).toBe("fine");
  expect(server.asked[0].session_id).toBeUndefined();
  const raw = stage(new Scripted([], [], [shut()]));
  await expect(raw.writer.raw(few, "m", 100, "", live(), on)).rejects.toBeInstanceOf(Broken);
});

test("a person who stops keeps what was written", async () => {
  const abort = new AbortController();
  const server = new Scripted([["so far", " and further"]]);
  const { writer, on } = stage(server);
  expect(await writer.chat(request, 100, FRESH, abort.signal, { ...on, text: () => abort.abort() })).toEqual({ text: "so far", finish: null, usage: null, route: null });
});

test("another model gets another session", async () => {
  const server = new Scripted([["a", END], ["b", END]]);
  const { writer, on } = stage(server);
  await writer.chat(request, 100, FRESH, live(), on);
  await writer.chat({ ...request, model: "other" }, 100, FRESH, live(), on);
  expect([server.opened, server.closed]).toEqual([2, ["s1"]]);
});

const few = { prompt: "A:", stop: "\n\n", seed: 1, sampling: { ...CHATBOT, max_tokens: 100 } };
const step = (text: string, full = false): Step => ({ text, tokens: 1, route: null, full });

test("a raw text is written step by step, each of which brings only what is new", async () => {
  const server = new Scripted([], [step(" one"), step(" two"), step("\n\n"), step(" B"), step("\n\n")]);
  const { writer, on, seen } = stage(server);
  const first = await writer.raw(few, "m", 100, "", live(), on);
  expect([first.text, first.finish, seen]).toEqual([" one two", "stop", [" one", " one two"]]);
  expect(server.forms.map((form) => form.inputs)).toEqual(["A:", undefined, undefined]);
  expect(server.forms[0]).toMatchObject({ do_sample: 1, top_p: 0.9, temperature: 0.75, stop_sequence: "\n\n", session_id: "s1" });
  await writer.raw({ ...few, prompt: "A: one two\n\nC:" }, "m", 100, "", live(), on);
  expect([server.forms[3].inputs, server.opened]).toEqual(["C:", 1]);
});

test("a raw text whose beginning was changed is read anew", async () => {
  const server = new Scripted([], [step("x\n\n"), step("y\n\n")]);
  const { writer, on } = stage(server);
  await writer.raw(few, "m", 100, "", live(), on);
  await writer.raw({ ...few, prompt: "B:" }, "m", 100, "", live(), on);
  expect([server.forms[1].inputs, server.closed, server.opened]).toEqual(["B:", ["s1"], 2]);
});

test("a raw text whose session expired goes on after its last word", async () => {
  const server = new Scripted([], [step(" one"), v1Error("KeyError: 'Session 1 expired or does not exist'", ""), step(" two\n\n")]);
  const { writer, on } = stage(server);
  expect((await writer.raw(few, "m", 100, "", live(), on)).text).toBe(" one two");
  expect(server.forms[2].inputs).toBe("A: one");
});

test("a raw text ends when its session is full, or at its longest", async () => {
  const { writer, on } = stage(new Scripted([], [step(" one", true)]));
  expect(await writer.raw(few, "m", 100, "", live(), on)).toMatchObject({ text: " one", finish: "length" });
  const short = { ...few, sampling: { ...CHATBOT, max_tokens: 2 } };
  expect(await stage(new Scripted([], [step("a"), step("b")])).writer.raw(short, "m", 100, "", live(), on)).toMatchObject({ text: "ab" });
});

test("texts end at their stop text or at the model's last token, not at a blank beginning", () => {
  expect(cutAt("\n\nword", "\n\n")).toEqual({ shown: "\n\nword", ended: false });
  expect(cutAt("word\n\nmore", "\n\n")).toEqual({ shown: "word", ended: true });
  expect(cutAt("word<|im_end|>", "")).toEqual({ shown: "word", ended: true });
  expect(cutAt("</s> is a tag", "")).toEqual({ shown: "</s> is a tag", ended: false });
});

test("failures of the plain API are known by their words", () => {
  expect(v1Error("KeyError: 'Session 6f expired or does not exist'", "x").code).toBe("session_gone");
  expect(v1Error("RuntimeError: Too many opened inference sessions (max 50), please come back later", "x").code).toBe("too_many_sessions");
  expect(v1Error("ValueError: Maximum length exceeded: prefix 1 + current 5", "x").code).toBe("context_length_exceeded");
  expect(v1Error("ValueError: something", "x")).toMatchObject({ code: "x", message: "something" });
});
