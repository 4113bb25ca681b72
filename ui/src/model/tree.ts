// Messages as a tree: an edited message and a reply that is asked for again are branches beside the first.

import type { Said } from "./values";

type Tree = { messages: Said[]; chosen: Record<string, string> };

/** The messages that follow each message; "" stands for the beginning. */
export function children(messages: Said[]): Map<string, Said[]> {
  const following = new Map<string, Said[]>();
  for (const message of messages) {
    const key = message.parent ?? "";
    const there = following.get(key);
    if (there) there.push(message);
    else following.set(key, [message]);
  }
  return following;
}

/** The branch that is shown, oldest first. */
export function path({ messages, chosen }: Tree, following = children(messages)): Said[] {
  const shown: Said[] = [];
  let key = "";
  for (let next = following.get(key); next && shown.length <= messages.length; next = following.get(key)) {
    const message = next.find((one) => one.id === chosen[key]) ?? next[next.length - 1];
    shown.push(message);
    key = message.id;
  }
  return shown;
}

/** `tree` with `message` in it, and shown. */
export function added<T extends Tree>(tree: T, message: Said): T {
  const chosen = { ...tree.chosen, [message.parent ?? ""]: message.id };
  return { ...tree, messages: [...tree.messages, message], chosen };
}

/** `tree` with another version of a message. */
export function changed<T extends Tree>(tree: T, id: string, change: Partial<Said>): T {
  return { ...tree, messages: tree.messages.map((one) => (one.id === id ? { ...one, ...change } : one)) };
}

/** `tree` without a message and all that follows it. */
export function removed<T extends Tree>(tree: T, id: string): T {
  const following = children(tree.messages);
  const gone = new Set([id]);
  for (const each of gone) for (const next of following.get(each) ?? []) gone.add(next.id);
  const messages = tree.messages.filter((one) => !gone.has(one.id));
  const chosen = Object.fromEntries(Object.entries(tree.chosen).filter(([key, one]) => !gone.has(key) && !gone.has(one)));
  return { ...tree, messages, chosen };
}

/** `tree` with the branch shown that is `step` beside the one of `message`. */
export function turned<T extends Tree>(tree: T, message: Said, step: number): T {
  const beside = children(tree.messages).get(message.parent ?? "") ?? [];
  const other = beside[beside.findIndex((one) => one.id === message.id) + step];
  return other ? { ...tree, chosen: { ...tree.chosen, [message.parent ?? ""]: other.id } } : tree;
}
