// Uses the page as a person does: node tests/browser/chat.mjs http://127.0.0.1:8000 [--pictures DIR]
// Needs a running server with a small chat model and nobody else talking to it, and a Chromium (CHROMIUM, default /usr/bin/chromium).

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { after, afterEach, before, test } from "node:test";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values, positionals } = parseArgs({ allowPositionals: true, options: { pictures: { type: "string" } } });
const server = positionals[0]?.replace(/\/+$/, "");
if (!server) {
  console.error("usage: node tests/browser/chat.mjs http://127.0.0.1:8000 [--pictures DIR]");
  process.exit(2);
}

const LONG = "Write a long story about a lighthouse keeper, with many chapters.";
const REPLY = 60_000; // a short reply, on a busy machine
const RAMBLE = 20_000; // longer than that no test listens to a reply
const SOON = 10_000; // what a person notices at once, on a busy machine
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

let browser;
const complaints = [];

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

/** A page of its own person; whatever goes wrong in it is collected. */
async function person(options = {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(SOON);
  await context.exposeFunction("violated", (directive, what) => complaints.push(`policy: ${directive} ${what}`));
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => window.violated(event.violatedDirective, event.blockedURI));
  });
  context.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== new URL(server).origin && protocol !== "data:") complaints.push(`request: ${request.url()}`);
  });
  context.on("requestfailed", (request) => {
    if (request.failure()?.errorText !== "net::ERR_ABORTED") complaints.push(`failed: ${request.url()} ${request.failure()?.errorText}`);
  });
  context.on("response", (response) => {
    if (response.status() >= 400) complaints.push(`${response.status()}: ${response.url()}`);
  });
  context.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(`console: ${message.text()}`);
  });
  context.on("weberror", (error) => complaints.push(`error: ${error.error()}`));
  const page = await context.newPage();
  await page.goto(`${server}/`);
  await page.getByRole("textbox", { name: "Your message" }).waitFor();
  return page;
}

const composer = (page) => page.getByRole("textbox", { name: "Your message" });
const stopButton = (page) => page.getByRole("button", { name: "Stop the reply" });
const sayings = (page) => page.getByRole("log").locator("> li");

async function say(page, text) {
  await composer(page).fill(text);
  await composer(page).press("Enter");
  await stopButton(page).waitFor();
}

/** Text of the reply as it stands. */
const reply = async (page) => ((await sayings(page).count()) < 2 ? "" : (await sayings(page).last().innerText()).trim());

async function until(what, check, limit = SOON) {
  const end = Date.now() + limit;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) assert.fail(`${what}: not within ${limit} ms`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Waits until a reply has begun, that is, some of its own words are there. */
const begun = (page) => until("a reply begins", async () => (await reply(page)).length > 20, REPLY);

/** Waits for the end of a reply; one that rambles is stopped. */
async function finished(page) {
  await stopButton(page).waitFor({ state: "hidden", timeout: RAMBLE }).catch(() => stopButton(page).click());
  await stopButton(page).waitFor({ state: "hidden" });
}

async function counters() {
  const text = await (await fetch(`${server}/metrics`)).text();
  return Object.fromEntries([...text.matchAll(/^corolla_(\w+) (\d+)$/gm)].map(([, name, value]) => [name, Number(value)]));
}

/** Waits until exactly `count` replies are being written; returns after how many milliseconds that was seen. */
async function running(count, limit = SOON) {
  const start = Date.now();
  await until(`${count} replies being written`, async () => (await counters()).turns_running === count, limit);
  return Date.now() - start;
}

async function picture(page, name) {
  if (!values.pictures) return;
  await mkdir(values.pictures, { recursive: true });
  await page.screenshot({ path: path.join(values.pictures, `${name}.png`) });
}

const sideways = (page) => page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth);

test("a message is sent with Enter and the reply is seen growing", async () => {
  const page = await person({ viewport: { width: 1000, height: 720 } });
  assert.equal(await page.title(), "Corolla");
  assert.ok(await composer(page).evaluate((it) => it === document.activeElement), "the composer has the focus");
  await picture(page, "welcome");
  await say(page, "Why is the sky blue?");
  assert.match(await sayings(page).first().innerText(), /Why is the sky blue\?/);
  const lengths = new Set();
  await until("the reply is seen at several lengths", async () => lengths.add((await reply(page)).length).size >= 4, REPLY);
  await finished(page);
  assert.match(await reply(page), /[a-z]{3,} [a-z]{2,}/i, "words");
  assert.match(await page.locator("body").innerText(), /\d tokens\/s|\d tokens per second/, "the speed is shown");
  assert.equal(await composer(page).inputValue(), "");
  await picture(page, "chat");
});

test("Stop stops the reply and the compute behind it", async () => {
  const page = await person();
  await say(page, LONG);
  await begun(page);
  await running(1);
  await stopButton(page).click();
  await running(0);
  await stopButton(page).waitFor({ state: "hidden" });
  const { tokens_generated_total: tokens } = await counters();
  const text = await reply(page);
  await page.waitForTimeout(500);
  assert.equal(await reply(page), text, "the text stands still");
  assert.equal((await counters()).tokens_generated_total, tokens, "no token is computed for nobody");
  await say(page, "Hello!");
  await until("another reply", async () => (await sayings(page).count()) === 4 && (await reply(page)).length > 2, REPLY);
  await stopButton(page).click().catch(() => {}); // it may have ended by itself
});

test("Escape stops too", async () => {
  const page = await person();
  await say(page, LONG);
  await begun(page);
  await page.keyboard.press("Escape");
  await stopButton(page).waitFor({ state: "hidden" });
  await running(0);
});

test("New chat forgets what was said, also in the middle of a reply", async () => {
  const page = await person();
  await say(page, LONG);
  await begun(page);
  await page.getByRole("button", { name: "New chat" }).click();
  await running(0);
  await until("an empty page", async () => (await sayings(page).count()) === 0);
  await until("the session is closed", async () => (await counters()).sessions_live === 0);
  await page.waitForTimeout(300);
  assert.equal(await sayings(page).count(), 0, "no late words of the old reply");
  await say(page, "What is water?");
  assert.equal(await sayings(page).first().innerText().then((text) => /lighthouse/.test(text)), false);
});

test("Shift+Enter makes a new line and sends nothing", async () => {
  const page = await person();
  await composer(page).pressSequentially("first line");
  await composer(page).press("Shift+Enter");
  await composer(page).pressSequentially("second line");
  assert.equal(await composer(page).inputValue(), "first line\nsecond line");
  assert.equal(await sayings(page).count(), 0);
  await composer(page).press("Enter");
  await until("the message is there", async () => (await sayings(page).count()) > 0);
  assert.match(await sayings(page).first().innerText(), /first line\s*\n\s*second line/);
  await stopButton(page).click().catch(() => {});
});

test("an empty message is not sent", async () => {
  const page = await person();
  await composer(page).fill("  \n ");
  await composer(page).press("Enter");
  await page.waitForTimeout(200);
  assert.equal(await sayings(page).count(), 0);
});

test("markup in a message stays text", async () => {
  const page = await person();
  await say(page, "<img src=x onerror=alert(1)><b>bold</b>");
  assert.match(await sayings(page).first().innerText(), /<img src=x onerror=alert\(1\)><b>bold<\/b>/);
  assert.equal(await page.getByRole("log").locator("img, b").count(), 0);
  await stopButton(page).click().catch(() => {});
});

test("two people chat at the same time, and one who leaves stops costing anything", async (t) => {
  const [one, other] = [await person(), await person()];
  await Promise.all([say(one, LONG), say(other, LONG)]);
  await Promise.all([begun(one), begun(other)]);
  await running(2);
  await one.context().close();
  const seen = await running(1);
  t.diagnostic(`the closed page's reply was over ${seen} ms later`);
  const before = (await reply(other)).length;
  await until("the other reply goes on", async () => (await reply(other)).length > before, REPLY);
  await stopButton(other).click();
  await running(0);
});

test("on a phone nothing has to be scrolled sideways", async () => {
  const page = await person({ ...PHONE });
  assert.ok((await sideways(page)) <= 0, "the empty page");
  await say(page, `Say something about ${"unbreakable".repeat(20)}`);
  await begun(page);
  assert.ok((await sideways(page)) <= 0, "the chat");
  const box = await composer(page).boundingBox();
  assert.ok(box.y + box.height <= PHONE.viewport.height && box.x >= 0, "the composer is in view");
  const stop = await stopButton(page).boundingBox();
  if (stop) assert.ok(stop.width >= 36 && stop.height >= 36, "Stop can be hit with a thumb");
  await stopButton(page).tap().catch(() => {});
  await picture(page, "phone");
});

test("light and dark follow the system", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const page = await person({ colorScheme, viewport: { width: 1000, height: 720 } });
    const [ground, ink] = await page.evaluate(() => {
      const style = getComputedStyle(document.body);
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      return [style.backgroundColor, style.color].map((colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
      });
    });
    assert.ok(colorScheme === "dark" ? ground + 100 < ink : ink + 100 < ground, `${colorScheme}: ground ${ground}, ink ${ink}`);
    if (colorScheme === "dark") {
      await say(page, "Give me three names for a cat.");
      await begun(page);
      await finished(page);
      await picture(page, "dark");
    }
  }
});
