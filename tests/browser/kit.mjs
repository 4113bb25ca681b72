// What the tests of the page share: a browser, persons who use it, and complaints about whatever goes wrong in it.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { after, afterEach, before } from "node:test";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

export const { values, positionals } = parseArgs({ allowPositionals: true, options: { pictures: { type: "string" }, binary: { type: "string" } } });
export const server = positionals[0]?.replace(/\/+$/, "");
if (!server) {
  console.error("usage: node tests/browser/all.mjs http://127.0.0.1:8000 [--pictures DIR] [--binary BINARY]");
  process.exit(2);
}

export const LONG = "Write a long story about a lighthouse keeper, with many chapters.";
export const REPLY = 120_000; // a short reply, on a busy machine
export const RAMBLE = 20_000; // longer than that no test listens to a reply
export const SOON = 30_000; // what a person notices at once, on a busy machine
export const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

let browser;
export const complaints = [];

before(async () => {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"];
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
});
after(() => browser?.close());

afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
  await running(0);
  assert.deepEqual(complaints.splice(0), [], "console errors, policy violations, requests to other servers");
});

/** A page of its own person; whatever goes wrong in it is collected. `at` is another address than the server's. */
export async function person({ at = server, expected = /^$/, ...options } = {}) {
  const complain = (what) => expected.test(what) || complaints.push(what);
  const context = await browser.newContext(options);
  context.setDefaultTimeout(SOON);
  await context.exposeFunction("violated", (directive, what) => complain(`policy: ${directive} ${what}`));
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => window.violated(event.violatedDirective, event.blockedURI));
  });
  context.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== new URL(at).origin && !["data:", "blob:"].includes(protocol)) complain(`request: ${request.url()}`);
  });
  context.on("requestfailed", (request) => {
    if (request.failure()?.errorText !== "net::ERR_ABORTED") complain(`failed: ${request.url()} ${request.failure()?.errorText}`);
  });
  context.on("response", (response) => {
    if (response.status() >= 400) complain(`${response.status()}: ${response.url()}`);
  });
  context.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complain(`console: ${message.text()}`);
  });
  context.on("weberror", (error) => complain(`error: ${error.error()}`));
  const page = await context.newPage();
  await page.goto(`${at}/`);
  await page.getByRole("textbox", { name: "Your message" }).waitFor();
  return page;
}

export const composer = (page) => page.getByRole("textbox", { name: "Your message" });
export const stopButton = (page) => page.getByRole("button", { name: "Stop the reply" });
export const button = (page, name) => page.getByRole("button", { name, exact: true });
export const settings = (page) => page.getByRole("dialog", { name: "Settings" });
export const sayings = (page) => page.getByRole("log").locator("> li");

export async function say(page, text) {
  const before = await sayings(page).count();
  await composer(page).fill(text);
  await composer(page).press("Enter");
  await until("the message is there, and a place for the reply", async () => (await sayings(page).count()) === before + 2);
}

/** Counts from now on in how many lengths a reply is seen; how many there were. */
export async function lengthsSeen(page) {
  await page.locator("[role=log]").evaluate((log) => {
    window.lengths = new Set();
    const look = () => window.lengths.add(log.querySelector(".writing .words")?.textContent.length ?? 0);
    new MutationObserver(look).observe(log, { characterData: true, childList: true, subtree: true });
  });
  return () => page.evaluate(() => window.lengths.size);
}

/** Text of the reply as it stands, with what is said of its writing. */
export const reply = async (page) => ((await sayings(page).count()) < 2 ? "" : (await sayings(page).last().locator(".body").innerText()).trim());

/** The words of a text, whatever is between them. */
export const plain = (text) => text.replace(/\W+/g, " ").trim();

/** The words of the reply as it stands. */
export const words = async (page) => plain(await sayings(page).last().locator(".words").innerText());

export async function until(what, check, limit = SOON) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) assert.fail(`${what}: not within ${limit} ms`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Waits until a reply has begun, that is, some of its own words are there. */
export const begun = (page) => until("a reply begins", async () => (await reply(page)).length > 20, REPLY);

/** Waits for the end of a reply; one that rambles is stopped. */
export async function finished(page) {
  await stopButton(page).waitFor({ state: "hidden", timeout: RAMBLE }).catch(() => enough(page));
}

export async function counters() {
  const text = await (await fetch(`${server}/metrics`)).text();
  return Object.fromEntries([...text.matchAll(/^corolla_(\w+) (\d+)$/gm)].map(([, name, value]) => [name, Number(value)]));
}

/** Waits until exactly `count` replies are being written; returns after how many milliseconds that was seen. */
export async function running(count, limit = SOON) {
  const start = Date.now();
  await until(`${count} replies being written`, async () => (await counters()).turns_running === count, limit);
  return Date.now() - start;
}

export async function picture(page, name) {
  if (!values.pictures) return;
  await mkdir(values.pictures, { recursive: true });
  await page.screenshot({ path: path.join(values.pictures, `${name}.png`) });
}

export const sideways = (page) => page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth);

/** How many tokens the replies of this chat may have. */
export async function longest(page, tokens) {
  await button(page, "Settings").click();
  await settings(page).getByRole("spinbutton", { name: "Longest reply" }).fill(String(tokens));
  await button(page, "Close").click();
}

/** Stops a reply, unless it has ended by itself. */
export async function enough(page) {
  await until("the reply is over", async () => {
    if (!(await stopButton(page).isVisible())) return true;
    // It may end by itself before it is hit.
    await stopButton(page).click({ timeout: 1000 }).catch(() => {});
    return false;
  });
}

const event = (piece) => `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", created: 0, model: "m", ...piece })}\n\n`;

/** A streamed reply of these words, as the server sends it. */
export function stream(text, finish = "stop", more = {}) {
  const pieces = text.match(/[\s\S]{1,400}/g) ?? [];
  const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, prompt_tokens_details: { cached_tokens: 0 } };
  const choice = (delta, finish_reason = null) => ({ choices: [{ index: 0, delta, finish_reason }] });
  const events = [...pieces.map((content) => event(choice({ content }))), event({ ...choice({}, finish), ...more }), event({ choices: [], usage })];
  return { status: 200, contentType: "text/event-stream", body: `${events.join("")}data: [DONE]\n\n` };
}

/** Lets the page get these answers to its chats, one after the other, the last one again and again; the requests so far. */
export async function answers(page, ...all) {
  const asked = [];
  await page.route("**/v1/chat/completions", async (route) => {
    asked.push(route.request().postDataJSON());
    await route.fulfill(all[Math.min(asked.length, all.length) - 1]);
  });
  return asked;
}

/** Lets the page get a reply to its chats that sends this much and then nothing, until it is stopped. */
export async function stalled(page, text) {
  await page.evaluate((piece) => {
    const real = window.fetch;
    window.fetch = (address, options) => {
      if (!String(address).includes("/v1/chat/completions")) return real(address, options);
      const start = (control) => {
        control.enqueue(new TextEncoder().encode(piece));
        options.signal.addEventListener("abort", () => control.error(options.signal.reason));
      };
      return Promise.resolve(new Response(new ReadableStream({ start }), { headers: { "Content-Type": "text/event-stream" } }));
    };
  }, event({ choices: [{ index: 0, delta: { content: text }, finish_reason: null }] }));
}

export const failure = (status, code, message) => ({ status, json: { error: { type: "server_error", code, message, param: null } } });

/** Says `text` where the answer comes at once. */
export async function exchange(page, text) {
  await composer(page).fill(text);
  await composer(page).press("Enter");
  const over = ([asked]) => {
    const [question, reply] = [...document.querySelectorAll("[role=log] > li")].slice(-2);
    return !!reply && question.innerText.includes(asked) && !document.querySelector(".writing") && reply.classList.contains("assistant");
  };
  await page.waitForFunction(over, [text]);
}
