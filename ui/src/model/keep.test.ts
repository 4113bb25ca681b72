import "fake-indexeddb/auto";

import { expect, test } from "vitest";

import { History } from "./history.svelte";
import { IndexedKeep, MemoryKeep, type Keep } from "./keep";
import { added } from "./tree";
import { newTalk } from "./values";

let count = 0;
const keeps: [string, () => Promise<Keep>][] = [
  ["IndexedDB", () => IndexedKeep.open(`test-${++count}`)],
  ["memory", () => Promise.resolve(new MemoryKeep())],
];

function talk(title: string, words: string, changed: number) {
  const said = { id: `${title}-1`, parent: null, role: "user" as const, text: words, at: 0, state: "done" as const };
  return { ...added(newTalk(null), said), title, changed };
}

test.each(keeps)("conversations are kept in %s, newest first", async (_name, open) => {
  const keep = await open();
  const [old, recent] = [talk("Old", "the sea", 1), talk("New", "the Forest", 2)];
  await keep.save(recent);
  await keep.save(old);
  expect((await keep.heads()).map((head) => head.title)).toEqual(["New", "Old"]);
  expect(await keep.load(old.id)).toEqual(old);
  await keep.save({ ...old, changed: 3 });
  expect((await keep.heads()).map((head) => head.title)).toEqual(["Old", "New"]);
  expect(await keep.load("nobody")).toBeUndefined();
});

test.each(keeps)("the history in %s is searched, renamed and deleted", async (_name, open) => {
  const history = new History(await open());
  const file = JSON.stringify({ format: "corolla-chats", chats: [talk("Sea", "salt and waves", 1), talk("Trees", "a Forest", 2)] });
  expect(await history.take(file)).toHaveLength(2);
  await history.find("forest");
  expect(history.heads.map((head) => head.title)).toEqual(["Trees"]);
  await history.find("sea");
  const [{ id }] = history.heads;
  await history.rename(id, "Ocean");
  await history.find("");
  expect(history.heads.map((head) => head.title)).toEqual(["Trees", "Ocean"]);
  expect(await history.all()).toContain("salt and waves");
  await history.remove(id);
  expect(history.heads.map((head) => head.title)).toEqual(["Trees"]);
  await history.clear();
  expect(history.heads).toEqual([]);
});
