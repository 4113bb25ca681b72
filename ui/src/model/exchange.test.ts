import { expect, test } from "vitest";

import { BadFile, oneLine, read, toJson, toMarkdown } from "./exchange";
import { added, path } from "./tree";
import { newTalk, type Said } from "./values";

function talk() {
  const words: [string, string | null, Said["role"]][] = [["Hi", null, "user"], ["Hello!", "m0", "assistant"], ["Hey <!-- corolla:user -->", "m0", "assistant"]];
  const all = words.map(([text, parent, role], at): Said => ({ id: `m${at}`, parent, role, text, at: 5, state: "done" }));
  return { ...all.reduce((grown, one) => added(grown, one), newTalk("tiny")), title: "Greetings", system: "Be kind.", from: "m0" };
}
const names = { user: "You", assistant: "Reply", system: "System" };

test("JSON keeps everything but what belongs to this browser", () => {
  const one = { ...talk(), writer: "tab" };
  const [back] = read(toJson([one]), []);
  const { writer: _writer, ...rest } = one;
  expect(back).toEqual(rest);
});

test("a conversation that is there already comes in beside it", () => {
  const one = talk();
  const [back] = read(toJson([one]), [one.id]);
  expect(back.id).not.toBe(one.id);
  expect(back.messages).toEqual(one.messages);
});

test("Markdown keeps the branch that is shown, whatever stands in it", () => {
  const [back] = read(toMarkdown(talk(), names), []);
  expect(path(back).map((one) => [one.role, one.text])).toEqual([["user", "Hi"], ["assistant", "Hey <!-- corolla:user -->"]]);
  expect([back.title, back.system]).toEqual(["Greetings", "Be kind."]);
});

test("Markdown keeps headings and blank lines of a message", () => {
  const one = talk();
  one.messages[0].text = "\n## A heading\n\ntext\n\n";
  one.messages[2].text = "# Title\n\n```\ncode\n```";
  const [back] = read(toMarkdown(one, names), []);
  expect(path(back).map((message) => message.text)).toEqual(one.messages.filter((_, at) => at !== 1).map((message) => message.text));
});

test.each([
  ["not JSON", "{", "file.json"],
  ["another JSON", "{}", "file.format"],
  ["a list", "[1]", "file.format"],
  ["no messages", '{"format":"corolla-chats","chats":[{}]}', "file.empty"],
  ["any text", "Hello", "file.format"],
  ["nothing", "", "file.format"],
])("a file that is %s is refused in words", (_what, text, why) => {
  expect(() => read(text, [])).toThrow(new BadFile(why as "file.json"));
});

test("what has another shape is left out, and a circle cannot come in", () => {
  const messages = [
    { id: "a", parent: null, role: "user", text: "fine" }, { id: "b", parent: "c", role: "user", text: "before its parent" },
    { id: "c", parent: "b", role: "user", text: "x" }, { id: "a", parent: null, role: "user", text: "twice" }, null, 7,
    { id: "d", parent: "a", role: "wizard", text: "x" }, { id: "e", parent: "a", role: "assistant", text: 5 },
    { id: "<img>", parent: "a", role: "user", text: "x" }, { id: "f", parent: "a", role: "assistant", text: "ok", state: "writing", facts: { tokens: "many" } },
  ];
  const chat = { id: "../..", title: "a\u202Eb\nc", messages, chosen: { a: "f", x: "a", "": "zzz" }, from: "q", sampling: { temperature: -1, top_p: "1" } };
  const [back] = read(JSON.stringify({ format: "corolla-chats", version: 1, chats: [chat] }), []);
  expect(back.messages.map((one) => one.id)).toEqual(["a", "f"]);
  expect(back.messages[1].state).toBe("cut");
  expect([back.title, back.chosen, back.from]).toEqual(["a b c", { a: "f" }, null]);
  expect(back.id).toMatch(/^\w+$/);
  expect(back.sampling).toMatchObject({ temperature: 0.75, top_p: null });
});

test("a title is one line", () => {
  expect(oneLine("  two\nlines\u0000 ")).toBe("two lines");
  expect([...oneLine("x".repeat(500))].length).toBe(80);
});
