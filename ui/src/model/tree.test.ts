import { expect, test } from "vitest";

import { added, changed, path, removed, turned } from "./tree";
import { newTalk, type Said } from "./values";

function said(id: string, parent: string | null, role: Said["role"] = "user"): Said {
  return { id, parent, role, text: id, at: 0, state: "done" };
}

const grown = (...all: Said[]) => all.reduce((talk, one) => added(talk, one), newTalk(null));
const shown = (talk: Parameters<typeof path>[0]) => path(talk).map((one) => one.id).join("");

test("the branch that was added last is shown, and others can be turned to", () => {
  const talk = grown(said("a", null), said("b", "a"), said("c", "a"), said("d", "c"));
  expect(shown(talk)).toBe("acd");
  const back = turned(talk, talk.messages[2], -1);
  expect(shown(back)).toBe("ab");
  expect(shown(turned(back, talk.messages[1], 1))).toBe("acd");
  expect(turned(back, talk.messages[1], -1)).toBe(back);
});

test("a first message can have versions too", () => {
  const talk = grown(said("a", null), said("b", "a"), said("x", null));
  expect(shown(talk)).toBe("x");
  expect(shown(turned(talk, talk.messages[2], -1))).toBe("ab");
});

test("what is removed goes with all that follows it", () => {
  const talk = removed(grown(said("a", null), said("b", "a"), said("c", "b"), said("d", "a")), "b");
  expect(talk.messages.map((one) => one.id)).toEqual(["a", "d"]);
  expect(shown(talk)).toBe("ad");
  expect(Object.values(talk.chosen)).not.toContain("c");
});

test("a change touches one message, and never the old value", () => {
  const before = grown(said("a", null), said("b", "a"));
  const after = changed(before, "b", { text: "other" });
  expect(path(after)[1].text).toBe("other");
  expect(path(before)[1].text).toBe("b");
});

test("a circle in what was kept does not hang the page", () => {
  const talk = { ...newTalk(null), messages: [said("a", "b"), said("b", "a")] };
  expect(path(talk)).toEqual([]);
  expect(path({ messages: [said("a", null), said("a", "a")], chosen: {} }).length).toBeLessThan(5);
});
