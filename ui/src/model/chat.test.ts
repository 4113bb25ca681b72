import { expect, test } from "vitest";

import { ApiError, type Piece } from "../api/client";
import { Chat, type Parting } from "./chat.svelte";
import { MemoryKeep } from "./keep";
import { END, Scripted } from "./scripted";
import { newTalk } from "./values";

function stage(...chats: (Piece | string | Error)[][]) {
  const server = new Scripted(chats);
  const keep = new MemoryKeep();
  const told: string[] = [];
  let left: Parting | null = null;
  const parting = { get: () => left, set: (now: Parting) => void (left = now) };
  const chat = new Chat({
    server, keep, tab: "mine", parting, now: () => 0, ready: () => Promise.resolve(), room: () => 100,
    pause: (_ms, signal) => (signal.aborted ? Promise.reject(new Error("stopped")) : Promise.resolve()),
    kept: () => undefined, tell: (what) => void told.push(what),
  });
  const over = async () => {
    while (chat.busy) await new Promise((resolve) => setTimeout(resolve));
  };
  return { chat, server, keep, told, over };
}

const texts = (chat: Chat) => chat.shown.map((one) => one.text);

test("what is said is kept with its reply, under its first words", async () => {
  const { chat, keep, told, over } = stage(["Hel", "lo", END]);
  chat.say("Hi\nthere");
  expect([chat.busy, chat.live?.phase]).toEqual([true, "reading"]);
  await over();
  expect(texts(chat)).toEqual(["Hi\nthere", "Hello"]);
  expect(told).toEqual(["begun", "finished"]);
  const [head] = await keep.heads();
  expect(head).toMatchObject({ title: "Hi there", count: 2 });
  expect((await keep.load(head.id))?.messages[1]).toMatchObject({ text: "Hello", state: "done" });
});

test("an edited message and another reply are branches", async () => {
  const { chat, server, over } = stage(["one", END], ["two", END], ["three", END]);
  chat.say("first");
  await over();
  chat.again(chat.shown[1]);
  await over();
  expect([texts(chat), chat.talk.messages.length]).toEqual([["first", "two"], 3]);
  chat.edit(chat.shown[0], "second");
  await over();
  expect(texts(chat)).toEqual(["second", "three"]);
  expect(server.asked[2].messages).toEqual([{ role: "user", content: "second" }]);
  chat.turn(chat.shown[0], -1);
  expect(texts(chat)).toEqual(["first", "two"]);
});

test("a reply that fails before its first word leaves the question, and is asked for again", async () => {
  const { chat, told, over } = stage([new ApiError("internal", "oh")], ["fine", END]);
  chat.say("Hi");
  await over();
  expect([texts(chat), chat.trouble?.code, told.at(-1)]).toEqual([["Hi"], "internal", "failed"]);
  chat.retry();
  await over();
  expect([texts(chat), chat.trouble]).toEqual([["Hi", "fine"], null]);
});

test("a reply that this tab broke off is taken up after its last word; another tab's is not", async () => {
  const facts = { model: "m", first: 1, writing: 50, tokens: 24, usage: null, route: null };
  const talk = { ...newTalk("m"), writer: "mine" };
  talk.messages = [
    { id: "a", parent: null, role: "user", text: "Hi", at: 0, state: "done" },
    { id: "b", parent: "a", role: "assistant", text: "Hel", at: 0, state: "writing", seed: 42, facts },
  ];
  const { chat, server, over } = stage(["lo", END]);
  chat.open({ ...talk, writer: "another" });
  expect([chat.busy, chat.shown[1].state]).toEqual([false, "cut"]);
  chat.open(talk);
  expect(chat.live?.text).toBe("Hel");
  await over();
  expect([texts(chat), server.asked[0].max_tokens]).toEqual([["Hi", "Hello"], 1000]);
  expect(server.asked[0].messages.at(-1)).toEqual({ role: "assistant", content: "Hel" });
  expect(chat.shown[1].facts).toMatchObject({ first: 1, tokens: 25 });
});

test("a page that goes away leaves every word to the page that comes back", async () => {
  const { chat, keep, server, over } = stage([...Array<string>(50).fill("word "), END], ["end", END]);
  chat.say("Hi");
  const { id } = chat.talk;
  while ((chat.live?.text.length ?? 0) < 20) await new Promise((resolve) => setTimeout(resolve));
  const shown = chat.live?.text ?? "";
  const older = await keep.load(id);
  chat.leave();
  expect(older?.messages[1].text.length).toBeLessThan(shown.length);
  chat.open({ ...newTalk("m"), ...older });
  expect(chat.live?.text).toBe(shown);
  await over();
  expect(chat.shown[1].text).toBe(`${shown}end`);
  expect(server.asked[1].messages.at(-1)?.content).toBe(shown);
});

test("a reply that was over when the page went away is not taken up, though it was kept before its end", async () => {
  const { chat, keep, server, over } = stage(["Hello", END]);
  chat.say("Hi");
  const older = await keep.load(chat.talk.id);
  await over();
  chat.leave();
  chat.open({ ...newTalk("m"), ...older });
  expect([chat.busy, texts(chat), server.asked.length]).toEqual([false, ["Hi", "Hello"], 1]);
});

test("a reply that was stopped shows its way, and goes on after its last word with a fresh length", async () => {
  const route = { hops: [{ peer: "p", start: 0, end: 2, latest_ms: 5 }], failovers: [] };
  const { chat, keep, server, over } = stage([{ text: "one", route }, ...Array<string>(50).fill(" more"), END], [" end", END]);
  chat.say("Hi");
  while (!chat.live?.text) await new Promise((resolve) => setTimeout(resolve));
  expect(chat.route).toEqual(route);
  chat.keep();
  expect((await keep.load(chat.talk.id))?.messages[1].facts?.route).toEqual(route);
  chat.stop();
  await over();
  const stopped = chat.shown[1];
  expect(stopped).toMatchObject({ state: "stopped", facts: { route } });
  chat.resume(stopped.id);
  await over();
  expect([chat.shown[1].text, chat.shown[1].state, server.asked[1].max_tokens]).toEqual([`${stopped.text} end`, "done", 1024]);
});

test("whoever goes to another chat finds the words so far when they come back", async () => {
  const { chat, server, keep } = stage([...Array<string>(50).fill("word "), END]);
  chat.say("Hi");
  const { id } = chat.talk;
  while (!chat.live?.text) await new Promise((resolve) => setTimeout(resolve));
  chat.fresh("m");
  expect([chat.busy, chat.shown, server.closed.length]).toEqual([false, [], 1]);
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect((await keep.load(id))?.messages[1]).toMatchObject({ state: "stopped", text: expect.stringMatching(/^word /) as string });
});

test("a full conversation goes on without its oldest messages", async () => {
  const full: Piece = { finish: "length", usage: { prompt_tokens: 90, completion_tokens: 10, total_tokens: 100, prompt_tokens_details: { cached_tokens: 0 } }, route: null };
  const { chat, server, over } = stage(["x".repeat(80), END], ["y".repeat(80), full], [new ApiError("context_length_exceeded", "")], ["on", END]);
  for (const text of ["one", "two", "three"]) {
    chat.say(text);
    await over();
  }
  expect(chat.trouble?.code).toBe("context_length_exceeded");
  chat.shorten();
  await over();
  expect(texts(chat).at(-1)).toBe("on");
  expect(server.asked[3].messages.length).toBeLessThan(server.asked[2].messages.length);
  expect(server.asked[3].messages.at(-1)?.content).toBe("three");
});
