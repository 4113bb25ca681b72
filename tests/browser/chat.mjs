// The first things that a person does with the page: see all.mjs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { begun, composer, counters, enough, finished, lengthsSeen, LONG, person, PHONE, picture, reply, REPLY, running, say, sayings, sideways, stopButton, until } from "./kit.mjs";

test("a message is sent with Enter and the reply is seen growing", async () => {
  const page = await person({ viewport: { width: 1000, height: 720 } });
  assert.equal(await page.title(), "Corolla");
  assert.ok(await composer(page).evaluate((it) => it === document.activeElement), "the composer has the focus");
  const seen = await lengthsSeen(page);
  await say(page, "Why is the sky blue?");
  assert.match(await sayings(page).first().innerText(), /Why is the sky blue\?/);
  await begun(page);
  await finished(page);
  assert.ok((await seen()) >= 4, "it is seen growing");
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
  await enough(page);
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
  await enough(page);
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
  await enough(page);
});

test("two people chat at the same time, and one who leaves stops costing anything", async (t) => {
  const [one, other] = [await person(), await person()];
  await Promise.all([say(one, LONG), say(other, LONG)]);
  await running(2);
  await Promise.all([begun(one), begun(other)]);
  await one.context().close();
  const seen = await running(1);
  t.diagnostic(`the closed page's reply was over ${seen} ms later`);
  const before = (await reply(other)).length;
  await until("the other reply goes on", async () => (await reply(other)).length > before, REPLY);
  await enough(other);
  await running(0);
});

test("on a phone nothing has to be scrolled sideways", async () => {
  const page = await person({ ...PHONE });
  assert.ok((await sideways(page)) <= 0, "the empty page");
  await say(page, `Tell me a long story about three sisters who climb the ${"unbreakable".repeat(20)} mountain.`);
  await begun(page);
  assert.ok((await sideways(page)) <= 0, "the chat");
  const box = await composer(page).boundingBox();
  assert.ok(box.y + box.height <= PHONE.viewport.height && box.x >= 0, "the composer is in view");
  const stop = await page.locator(".send").boundingBox();
  assert.ok(stop.width >= 36 && stop.height >= 36, "Stop can be hit with a thumb");
  await enough(page);
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
