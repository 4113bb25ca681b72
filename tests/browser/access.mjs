// Every view for everybody: axe finds nothing, light and dark, wide and narrow. See all.mjs.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { answers, composer, exchange, failure, person, PHONE, sideways, stalled, stream, until } from "./kit.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RICH = "# Title\n\nSome **bold** text, a [link](https://example.org) and `code`.\n\n```python\n# comment\ndef f(x):\n    return \"a\" + str(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n\n1. one\n2. two\n\n$$a^2 + b^2 = c^2$$\n";
const ROUTE = {
  hops: [{ peer: "12D3KooWfirst", start: 0, end: 12, latest_ms: 31.5 }, { peer: "12D3KooWsecond", start: 12, end: 30, latest_ms: 120.25 }],
  failovers: [{ position: 17, lost: { peer: "12D3KooWgone", start: 12, end: 30 }, why: "it is gone", pause_ms: 812, by: [{ peer: "12D3KooWsecond", start: 12, end: 30 }] }],
};
const SWARM = {
  models: [{
    model: "smollm2-135m-instruct", blocks: 30, missing: [28, 29], fault: null, route: [],
    servers: [
      { peer: "12D3KooWfirst", name: "under the desk", start: 0, end: 18, rps: 240.5, rtt_ms: 3.25, free_tokens: 16384, relayed: false, version: "0.1.0", dtype: "f32" },
      { peer: "12D3KooWsecond", name: null, start: 12, end: 28, rps: 80, rtt_ms: null, free_tokens: null, relayed: true, version: null, dtype: null },
    ],
  }],
};

async function fine(page, view) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.flatMap(({ id, help, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${help}: ${html.slice(0, 160)} ${failureSummary}`));
  assert.deepEqual(told, [], view);
  assert.ok((await sideways(page)) <= 0, `${view}: nothing has to be scrolled sideways`);
}

for (const [name, options] of [["wide and light", { viewport: { width: 1200, height: 800 }, colorScheme: "light" }], ["a phone, dark", { ...PHONE, colorScheme: "dark" }]]) {
  test(`axe finds nothing in any view: ${name}`, { timeout: 300_000 }, async () => {
    const page = await person({ ...options, expected: /503|42/ });
    const button = (label) => page.getByRole("button", { name: label, exact: true });
    await page.route("**/api/v1/swarm", (route) => route.fulfill({ json: SWARM }));
    await fine(page, "welcome");
    await answers(page, stream(RICH, "stop", { route: ROUTE }), failure(503, "unavailable", "the blocks 28 and 29 have no server"));
    await exchange(page, "Show me everything");
    await until("the late parts", async () => (await page.locator("math").count()) && (await page.locator(".hljs-keyword").count()));
    await page.locator(".route-facts summary").click();
    await page.getByText("12D3KooWgone".slice(-8), { exact: false }).first().waitFor();
    await fine(page, "a chat with everything in it");
    await composer(page).fill("And now?");
    await composer(page).press("Enter");
    await page.getByRole("alert").getByText("The model cannot answer yet.").waitFor();
    await fine(page, "an error");
    await composer(page).press("ArrowUp");
    await page.getByRole("textbox", { name: "The message, to be changed" }).waitFor();
    await fine(page, "a message that is edited");
    await page.keyboard.press("Escape");
    await button("Settings").click();
    await page.waitForTimeout(300);
    await fine(page, "the settings");
    await button("Keyboard").click();
    await fine(page, "the keys");
    await page.keyboard.press("Escape");
    if (await button("History").getAttribute("aria-expanded") === "false") {
      await button("History").click();
      await page.waitForTimeout(300);
      await fine(page, "the history");
      await page.getByRole("button", { name: "Delete: Show me everything" }).click({ force: true });
    } else {
      await page.getByRole("link", { name: "Show me everything" }).hover();
      await page.getByRole("button", { name: "Delete: Show me everything" }).click();
    }
    await page.getByRole("button", { name: "Cancel" }).waitFor();
    await fine(page, "a question");
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.keyboard.press("Escape");
    await page.goto(`${page.url().split("#")[0]}#/swarm`);
    await page.getByText("Nobody hosts blocks 28–29").waitFor();
    await fine(page, "the swarm");
    await page.getByRole("textbox", { name: "Join token" }).fill("not a token");
    await page.getByText("A join token begins with").waitFor();
    await fine(page, "a wrong token");
    await page.goto(`${page.url().split("#")[0]}#/`);
    await button("Few-shot mode").click();
    await page.getByRole("heading", { name: "Few-shot" }).waitFor();
    await fine(page, "few-shot mode");
  });
}

test("a reply is told to a screen reader when it begins and ends, not word by word", async () => {
  const page = await person();
  await answers(page, stream("fine"));
  const status = page.getByRole("status").last();
  await exchange(page, "Hello");
  assert.equal(await status.innerText(), "Reply finished.");
  assert.equal(await page.getByRole("log").getAttribute("aria-live"), "off");
});

test("who wants less motion gets none", async () => {
  for (const reducedMotion of ["no-preference", "reduce"]) {
    const page = await person({ reducedMotion });
    const moving = () => page.evaluate(() => document.getAnimations().length);
    await stalled(page, "one");
    await composer(page).fill("Hello");
    await composer(page).press("Enter");
    await page.getByRole("log").getByText("one").waitFor();
    if (reducedMotion === "reduce") assert.equal(await moving(), 0, "while a reply is written");
    else await until("the flower breathes", moving);
    await page.keyboard.press("Escape");
    await page.locator(".meta").getByText("Stopped").waitFor();
    await page.getByRole("button", { name: "Settings" }).click();
    if (reducedMotion === "reduce") assert.equal(await moving(), 0, "while a sheet comes");
  }
});
