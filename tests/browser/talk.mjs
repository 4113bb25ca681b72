// Conversations: branches, history, files, settings, what went wrong: see all.mjs.

import assert from "node:assert/strict";
import { readFile, writeFile, mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";

import { answers, begun, button, composer, enough, exchange, failure, LONG, person, RAMBLE, REPLY, reply, say, sayings, server, settings, stalled, stopButton, stream, until } from "./kit.mjs";

const WIDE = { viewport: { width: 1200, height: 760 } };
/** Pixels from the end of the conversation to what is in view. */
const away = (page) => page.locator("#scroller").evaluate((it) => it.scrollHeight - it.scrollTop - it.clientHeight);
const said = (page, at) => sayings(page).nth(at).innerText();

test("a message is edited and sent again, on a branch of its own", async () => {
  const page = await person(WIDE);
  const asked = await answers(page, stream("one"), stream("two"));
  await exchange(page, "first words");
  await sayings(page).first().hover();
  await button(page, "Edit and send again").click();
  const field = page.getByRole("textbox", { name: "The message, to be changed" });
  assert.equal(await field.inputValue(), "first words");
  await field.fill("other words");
  await field.press("Enter");
  await until("the other reply", async () => /two/.test(await said(page, 1)));
  assert.deepEqual(asked[1].messages, [{ role: "user", content: "other words" }]);
  assert.match(await said(page, 0), /other words[\s\S]*2\/2/);
  await sayings(page).first().hover();
  await button(page, "Previous version").click();
  assert.match(`${await said(page, 0)} ${await said(page, 1)}`, /first words[\s\S]*one/);
});

test("another reply is written beside the first, and both can be read", async () => {
  const page = await person(WIDE);
  const asked = await answers(page, stream("one"), stream("two"));
  await exchange(page, "Hello");
  await button(page, "Write another reply").click();
  await until("the other reply", async () => /two[\s\S]*2\/2/.test(await said(page, 1)));
  assert.notEqual(asked[0].seed, asked[1].seed);
  await button(page, "Previous version").click();
  assert.match(await said(page, 1), /one/);
  await page.reload();
  await until("the chosen branch after a reload", async () => (await sayings(page).count()) === 2 && /one/.test(await said(page, 1)));
});

test("the arrow up edits the last message, and Escape leaves it", async () => {
  const page = await person();
  await answers(page, stream("fine"));
  await exchange(page, "words");
  await composer(page).press("ArrowUp");
  const field = page.getByRole("textbox", { name: "The message, to be changed" });
  await field.press("Escape");
  await field.waitFor({ state: "hidden" });
  assert.match(await said(page, 0), /words/);
});

test("messages and code blocks are copied", async () => {
  const page = await person({ ...WIDE, permissions: ["clipboard-read", "clipboard-write"] });
  const code = 'def f(x):\n    return "<b>" + x\n';
  await answers(page, stream(`Here:\n\n\`\`\`python\n${code}\`\`\`\n`));
  await exchange(page, "code please");
  await page.locator(".hljs-keyword").first().waitFor();
  await page.locator(".code").getByRole("button", { name: "Copy" }).click();
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await until("the code in the clipboard", async () => (await clipboard()).trimEnd() === code.trimEnd());
  await sayings(page).last().locator(".acts").getByRole("button", { name: "Copy" }).click();
  await until("the message in the clipboard", async () => (await clipboard()).startsWith("Here:\n\n```python"));
});

test("formulas are set, and prices are left alone", async () => {
  const page = await person(WIDE);
  await answers(page, stream("It costs $5 or $6. Also \\(a^2+b^2\\) and\n\n$$\\int_0^1 x\\,dx = \\frac12$$\n\nand $\\color{red}x$ and $\\bad{$."));
  await exchange(page, "formulas");
  await until("the formulas", async () => (await page.locator("math").count()) >= 3);
  assert.match(await said(page, 1), /costs \$5 or \$6\./);
});

test("the history lists, searches, renames and deletes, and outlives a reload", async () => {
  const page = await person(WIDE);
  await answers(page, stream("About lighthouses."), stream("About rivers."));
  await exchange(page, "Tell me of the sea");
  await button(page, "New chat").click();
  await exchange(page, "Tell me of water");
  const list = page.getByRole("complementary", { name: "History" });
  const links = list.getByRole("link");
  await until("both chats", async () => (await links.count()) === 2);
  await list.getByRole("searchbox").fill("LIGHTHOUSE");
  await until("the one that has the word", async () => (await links.count()) === 1);
  await links.first().click();
  await until("the chat", async () => /About lighthouses/.test(await said(page, 1)));
  await list.getByRole("searchbox").fill("");
  await list.getByRole("link", { name: "Tell me of the sea" }).hover();
  await button(page, "Rename: Tell me of the sea").click();
  await page.getByRole("textbox", { name: "New title" }).fill("The sea");
  await page.keyboard.press("Enter");
  await list.getByRole("link", { name: "The sea", exact: true }).waitFor();
  await page.reload();
  await until("the same chat after a reload", async () => (await sayings(page).count()) === 2 && /About lighthouses/.test(await said(page, 1)));
  await list.getByRole("link", { name: "The sea" }).hover();
  await button(page, "Delete: The sea").click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete", exact: true }).click();
  await until("one chat is left, and the page is empty", async () => (await links.count()) === 1 && (await sayings(page).count()) === 0);
});

test("conversations go out to files and come in again", async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "corolla-"));
  try {
    const page = await person(WIDE);
    await answers(page, stream("A *reply*."));
    await exchange(page, "A question");
    const files = [];
    for (const [name, ending] of [["Export all (JSON)", "json"], ["Export this chat (Markdown)", "md"]]) {
      await button(page, "Settings").click();
      const download = page.waitForEvent("download");
      await button(page, name).click();
      const file = path.join(folder, `chat.${ending}`);
      await (await download).saveAs(file);
      files.push(file);
      await button(page, "Close").click();
    }
    assert.equal(JSON.parse(await readFile(files[0], "utf8")).chats.length, 1);
    assert.match(await readFile(files[1], "utf8"), /# A question[\s\S]*A \*reply\*\./);
    const bad = path.join(folder, "bad.json");
    await writeFile(bad, "{}");
    for (const file of files) {
      const other = await person(WIDE);
      await button(other, "Settings").click();
      const field = settings(other).locator("input[type=file]");
      await field.setInputFiles(bad);
      await settings(other).getByText("holds no conversation").waitFor();
      await field.setInputFiles(file);
      await settings(other).getByText("1 conversation imported.").waitFor();
      await button(other, "Close").click();
      await until("the conversation", async () => (await sayings(other).count()) === 2 && /A reply\./.test(await said(other, 1)));
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("few-shot mode continues a text, word for word", async () => {
  const page = await person(WIDE);
  await button(page, "Few-shot mode").click();
  await until("the example", async () => /Spanish:$/.test(await composer(page).inputValue()));
  const sent = page.waitForRequest("**/api/v1/generate");
  await composer(page).press("Enter");
  assert.match((await sent).postDataJSON().inputs, /^Translate English to Spanish\.[\s\S]*Spanish:$/);
  await until("the text goes on", async () => (await reply(page)).length > 10, REPLY);
  await stopButton(page).waitFor({ state: "hidden", timeout: RAMBLE }).catch(() => enough(page));
  assert.doesNotMatch((await reply(page)).trim(), /\n\n[\s\S]*\n\n/, "it ends at a blank line");
});

test("the system prompt and the sampling are sent, and a preset sets them", async () => {
  const page = await person();
  const asked = await answers(page, stream("fine"));
  await button(page, "Settings").click();
  await settings(page).getByRole("textbox", { name: "System prompt" }).fill("Speak like a pirate.");
  await settings(page).getByRole("combobox", { name: "Style of the replies" }).selectOption("exact");
  await settings(page).getByRole("spinbutton", { name: "Longest reply" }).fill("77");
  await page.keyboard.press("Escape");
  await exchange(page, "Hello");
  const [{ messages, temperature, top_p, max_tokens }] = asked;
  assert.deepEqual(messages[0], { role: "system", content: "Speak like a pirate." });
  assert.deepEqual([temperature, top_p, max_tokens], [0, undefined, 77]);
});

test("by default replies are drawn as in the original chat", async () => {
  const page = await person();
  const asked = await answers(page, stream("fine"));
  await exchange(page, "Hello");
  assert.deepEqual([asked[0].temperature, asked[0].top_p, asked[0].messages.length], [0.75, 0.9, 1]);
});

test("a conversation that is too long goes on without its oldest messages", async () => {
  const page = await person({ expected: /400/ });
  const asked = await answers(page, stream("It is the first thing that comes to mind. ".repeat(90)), stream("And there is more to say about it. ".repeat(100)), failure(400, "context_length_exceeded", "too long"), stream("on"));
  await exchange(page, "first");
  await exchange(page, "second");
  await composer(page).fill("third");
  await composer(page).press("Enter");
  await page.getByRole("alert").getByText("The conversation has become too long for this model.").waitFor();
  await button(page, "Go on without the oldest").click();
  await until("the reply", async () => /on/.test(await sayings(page).last().innerText()) && asked.length === 4);
  assert.ok(asked[3].messages.length < asked[2].messages.length, "the oldest are left out");
  assert.deepEqual(asked[3].messages.at(-1), { role: "user", content: "third" });
  await page.getByText("The model no longer sees what stands above this line").waitFor();
});

test("the context meter counts, and a slow reply says why", async () => {
  const page = await person(WIDE);
  const server = { start: 0, end: 30, rps: 9, rtt_ms: 3, free_tokens: 1, version: null, dtype: null };
  const servers = [{ ...server, peer: "12D3KooWfar", name: "behind a router", relayed: true }];
  const model = { model: "smollm2-135m-instruct", blocks: 30, missing: [], fault: null, join: null, file: null, route: [{ peer: "12D3KooWfar", start: 0, end: 30 }], servers };
  await page.route("**/api/v1/swarm", (route) => route.fulfill({ json: { models: [model] } }));
  await answers(page, stream("fine\n\n".repeat(40)));
  await exchange(page, "Hello");
  assert.equal(await page.getByRole("meter", { name: "Context used" }).getAttribute("aria-valuetext"), "15 of 4,096 tokens");
  await stalled(page, "one word");
  await composer(page).fill("And now?");
  await composer(page).press("Enter");
  await page.getByText("Slow: behind a router is reached through a relay.").waitFor();
  await until("the reply is in view, though the reason takes its place", async () => (await away(page)) < 8);
  await page.getByRole("link", { name: "Help it with your machine" }).click();
  await page.getByRole("heading", { name: "Connect your machine" }).waitFor();
});

test("of several models each shows its state, and the one that is picked is asked", async () => {
  const page = await person(WIDE);
  const model = { default: false, missing: null, chat: true, family: "llama", context_length: 2048, dtype: "f32", blocks: 4, hidden: 8, vocab: 99 };
  const states = [["first", "ready"], ["second", "ready"], ["third", "loading"], ["fourth", "missing"]];
  const models = states.map(([id, state]) => ({ ...model, id, state, default: id === "first" }));
  const sessions = { max_sessions: 50, default_length: 1024, max_length: 8192, idle_seconds: 300 };
  await page.route("**/api/v1/models", (route) => route.fulfill({ json: { models, sessions } }));
  await page.route("**/api/v1/open_inference_session**", (route) => route.fulfill({ json: { ok: true, session_id: "s" } }));
  const swarm = { blocks: 4, missing: [2, 3], fault: null, join: null, file: null, route: [], servers: [] };
  await page.route("**/api/v1/swarm", (route) => route.fulfill({ json: { models: [{ ...swarm, model: "fourth" }] } }));
  await page.reload();
  const picker = page.getByRole("combobox", { name: "Model" });
  const shown = async () => (await picker.locator("option").allInnerTexts()).join();
  await until("the states", async () => (await shown()) === "first,second,third (loading),fourth (2 blocks missing)");
  const asked = await answers(page, stream("fine"));
  await picker.selectOption("second");
  await exchange(page, "Hello");
  await page.reload();
  await exchange(page, "again");
  assert.deepEqual(asked.map((one) => one.model), ["second", "second"]);
});

test("what goes wrong is told in a sentence with something to do", async () => {
  const page = await person({ expected: /5\d\d/ });
  await answers(page, failure(500, "internal", "something went wrong inside the server; its log has the details"), stream("fine"));
  await composer(page).fill("Hello");
  await composer(page).press("Enter");
  const alert = page.getByRole("alert");
  await alert.getByText("That did not work.").waitFor();
  assert.match(await alert.innerText(), /Something went wrong inside the server; its log has the details\./);
  await button(page, "Try again").click();
  await until("the reply", async () => /fine/.test(await reply(page)));
  assert.equal(await sayings(page).count(), 2);
  assert.equal((await alert.innerText()).trim(), "");
});

test("a server that asks for a key is given one", async () => {
  const page = await person({ expected: /401/ });
  let key;
  await page.route("**/v1/chat/completions", async (route) => {
    key = route.request().headers().authorization;
    await route.fulfill(key ? stream("welcome") : failure(401, "invalid_api_key", "no key"));
  });
  await composer(page).fill("Hello");
  await composer(page).press("Enter");
  await button(page, "Enter a key").click();
  await settings(page).getByLabel("API key").fill("sk-test");
  await page.keyboard.press("Escape");
  await button(page, "Try again").click();
  await until("the reply", async () => /welcome/.test(await reply(page)));
  assert.equal(key, "Bearer sk-test");
});

test("the view follows the reply until the reader scrolls up", async () => {
  const page = await person({ viewport: { width: 800, height: 420 } });
  await answers(page, stream(Array.from({ length: 60 }, (_, at) => `Line ${at}.\n\n`).join("")));
  await exchange(page, "many lines");
  await page.unroute("**/v1/chat/completions");
  await say(page, LONG);
  await begun(page);
  await until("the end is in view", async () => (await away(page)) < 8);
  await page.locator("#scroller").hover();
  await page.mouse.wheel(0, -400);
  await until("the reader is elsewhere", async () => (await away(page)) > 200);
  const length = (await reply(page)).length;
  await until("the reply grows", async () => (await reply(page)).length > length + 30, REPLY);
  assert.ok((await away(page)) > 200, "and the view stays");
  await page.getByRole("button", { name: "Latest" }).click();
  await until("the end is in view again", async () => (await away(page)) < 8);
  await enough(page);
});

test("the page speaks German to those who do, and keeps a choice", async () => {
  const page = await (await person({ ...WIDE })).context().newPage();
  await page.goto(`${server}/`);
  await button(page, "Settings").click();
  await page.getByRole("combobox", { name: "Language" }).selectOption("de");
  await page.getByRole("dialog", { name: "Einstellungen" }).waitFor();
  await page.getByRole("combobox", { name: "Farben" }).selectOption("dark");
  await page.reload();
  await page.getByRole("button", { name: "Neuer Chat" }).waitFor();
  assert.deepEqual(await page.evaluate(() => [document.documentElement.lang, getComputedStyle(document.body).backgroundColor]), ["de", "rgb(22, 20, 24)"]);
  await page.getByRole("link", { name: "Schwarm" }).click();
  await page.getByText("Alle 30 Blöcke laufen auf diesem Server").waitFor();
});

test("everything is done with the keyboard", async () => {
  const page = await person(WIDE);
  await answers(page, stream("fine"));
  await exchange(page, "Hello");
  await page.keyboard.press("Alt+KeyK");
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute("type")), "search");
  await page.keyboard.press("Alt+KeyW");
  await page.getByRole("heading", { name: "Swarm", exact: true }).waitFor();
  await page.keyboard.press("Alt+KeyW");
  await until("the chat again", async () => (await sayings(page).count()) === 2);
  await page.keyboard.press("Alt+KeyH");
  await page.getByRole("dialog", { name: "Keyboard" }).waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Alt+KeyN");
  await until("a new chat with the caret in its field", async () => (await sayings(page).count()) === 0 && (await composer(page).evaluate((it) => it === document.activeElement)));
});

test("the page works below a path prefix", async () => {
  const prefix = "/some/where";
  const proxy = http.createServer((request, response) => {
    if (!request.url.startsWith(`${prefix}/`)) return response.writeHead(404).end();
    const options = { method: request.method, headers: request.headers };
    const up = http.request(new URL(request.url.slice(prefix.length), server), options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    response.on("close", () => up.destroy());
    up.on("error", () => response.destroy());
    request.pipe(up);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  try {
    const page = await person({ at: `http://127.0.0.1:${proxy.address().port}${prefix}` });
    await say(page, "Why is the sky blue?");
    await begun(page);
    await enough(page);
    await page.goto(`${page.url().split("#")[0]}#/swarm`);
    await page.getByRole("heading", { name: "Swarm", exact: true }).waitFor();
    await page.context().close();
  } finally {
    proxy.closeAllConnections();
    proxy.close();
  }
});
