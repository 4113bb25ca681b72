// Replies that broke off and go on: see all.mjs. Servers that restart are in servers.mjs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { answers, begun, button, enough, exchange, failure, LONG, longest, person, REPLY, reply, say, sayings, stream, until, words } from "./kit.mjs";

test("a reload in mid-reply loses nothing: the reply goes on after the words that were there", async () => {
  const page = await person();
  await say(page, LONG);
  await begun(page);
  const kept = await words(page);
  const asked = page.waitForRequest("**/v1/chat/completions");
  await page.reload();
  const { messages, continue_final_message: goesOn } = (await asked).postDataJSON();
  assert.deepEqual([goesOn, messages.length, messages[1].role], [true, 2, "assistant"]);
  assert.ok(messages[1].content.length > 20, `what was written is there: ${messages[1].content}`);
  await until("it goes on", async () => (await words(page)).length > kept.length + 40, REPLY);
  const whole = await words(page);
  assert.ok(whole.startsWith(kept), `no word is lost: ${kept} / ${whole}`);
  assert.ok(!whole.slice(kept.length).includes(kept.slice(0, 40)), `no word comes twice: ${whole}`);
  await enough(page);
});

test("a reply that was stopped goes on after its last word", async () => {
  const page = await person();
  await say(page, LONG);
  await begun(page);
  await enough(page);
  const kept = await words(page);
  await button(page, "Go on").click();
  await until("it goes on", async () => (await words(page)).length > kept.length + 20, REPLY);
  assert.ok((await words(page)).startsWith(kept), "with the same words");
  assert.equal(await sayings(page).count(), 2, "in the same message");
  await enough(page);
});

test("a reply that is as long as one may be goes on when it is asked to", async () => {
  const page = await person();
  const asked = await answers(page, stream("one two", "length"), stream(" three"));
  await longest(page, 5);
  await exchange(page, "Count!");
  const alert = page.getByRole("alert");
  await alert.getByText("This is as long as one reply may be.").waitFor();
  await alert.getByRole("button", { name: "Go on" }).click();
  await until("the rest", async () => /one two three/.test(await reply(page)));
  assert.deepEqual(asked[1].messages.at(-1), { role: "assistant", content: "one two" });
});

test("an expired session is replaced without a word", async () => {
  const page = await person({ expected: /404/ });
  const asked = await answers(page, stream("one"), failure(404, "session_gone", "Session 6f1d expired or does not exist"), stream("two"));
  await exchange(page, "Hello");
  await exchange(page, "again");
  assert.match(await reply(page), /two/);
  assert.notEqual(asked[1].session_id, asked[2].session_id);
  assert.equal((await page.getByRole("alert").innerText()).trim(), "");
});
