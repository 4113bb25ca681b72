// What a model may write, and how much of it: nothing of it runs, and the page stays quick. See all.mjs.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";

import { answers, composer, exchange, person, REPLY, reply, sayings, stream, until } from "./kit.mjs";

const deep = (open, count, close = "") => open.repeat(count) + "x" + close.repeat(count);

/** Outputs that mean no good. Whatever runs calls `pwned`, or breaks the policy; both are complaints. */
const HOSTILE = [
  "<script>pwned(1)</script>",
  "<ScRiPt src=//evil.example/x.js></sCrIpT>",
  "<img src=x onerror=pwned(1)>",
  "<img src=`x`onerror=pwned(1)//",
  "<svg onload=pwned(1)>",
  "<svg><script>pwned(1)</script></svg>",
  "<svg><animate onbegin=pwned(1) attributeName=x dur=1s>",
  "<svg><a xlink:href='javascript:pwned(1)'><text y=20>click</text></a></svg>",
  "<iframe src='javascript:pwned(1)'></iframe>",
  "<iframe srcdoc='<script>parent.pwned(1)</script>'></iframe>",
  "<object data='javascript:pwned(1)'></object><embed src='javascript:pwned(1)'>",
  "<body onload=pwned(1)><style>*{display:none}</style>",
  "<style>@import url(//evil.example/x.css);</style>",
  "<link rel=stylesheet href=//evil.example/x.css>",
  "<base href=//evil.example/>",
  "<meta http-equiv=refresh content='0;url=javascript:pwned(1)'>",
  "<form action='javascript:pwned(1)'><button>Send</button></form>",
  "<details open ontoggle=pwned(1)>x</details>",
  "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=pwned(1)&gt;\">",
  "<noscript><p title=\"</noscript><img src=x onerror=pwned(1)>\">",
  "<div style='position:fixed;inset:0;background:url(//evil.example/x)'>cover</div>",
  "[click](javascript:pwned(1))",
  "[click](JaVaScRiPt&#58;pwned(1))",
  "[click](java\nscript:pwned(1))",
  "[click](&#106;avascript:pwned(1))",
  "[click](vbscript:pwned(1)) [click](data:text/html,<script>pwned(1)</script>)",
  "[click](https://ok.example/\" onmouseover=\"pwned(1))",
  "[click](<javascript:pwned(1)> \"title\")",
  "[a]: javascript:pwned(1)\n\n[click][a]",
  "<javascript:pwned(1)>",
  "![x](javascript:pwned(1))",
  "![pixel](https://evil.example/track.png)",
  "![x](x\"onerror=\"pwned(1))",
  "```html\n<script>pwned(1)</script>\n```",
  "```\"><script>pwned(1)</script>\ncode\n```",
  "```javascript\n</code></pre><img src=x onerror=pwned(1)>\n```",
  "`</code><script>pwned(1)</script>`",
  "$$\\href{javascript:pwned(1)}{click}$$",
  "$$\\htmlStyle{background:url(//evil.example)}{x}$$ and $\\color{red}x$ and $$\\colorbox{red}{x}$$",
  "$$\\includegraphics{https://evil.example/x.png}$$ and $$\\def\\a{\\a\\a}\\a$$",
  "\\(<img src=x onerror=pwned(1)>\\)",
  "| a | b |\n|---|---|\n| <img src=x onerror=pwned(1)> | [x](javascript:pwned(1)) |",
  `| ${"a | ".repeat(100)}\n|${"---|".repeat(100)}\n${`| ${"<b>x</b> | ".repeat(100)}\n`.repeat(20)}`,
  "\u202Egnp.exe\u202C and \u2067right to left\u2069 \u202E never ended",
  "\u0000\u0001\uFFFE\uD800 lone surrogates and \u0000 zeros",
  deep("> ", 3000),
  deep("- ", 2000),
  deep("**", 3000, "**"),
  deep("[", 5000, "](x)"),
  `${"*a_".repeat(3000)}`,
  `\`\`\`\n${"never closed ".repeat(4000)}`,
  "<!--><img src=x onerror=pwned(1)>-->",
  "<![CDATA[<img src=x onerror=pwned(1)>]]><?php pwned(1) ?>",
  "&lt;script&gt;pwned(1)&lt;/script&gt; &#60;img src=x onerror=pwned(1)&#62;",
  "- [ ] <input autofocus onfocus=pwned(1)>\n- [x] <button formaction=javascript:pwned(1)>x</button>",
  "http://ok.example/<script>pwned(1)</script> www.ok.example/'onclick='pwned(1)",
];

test(`${HOSTILE.length} hostile outputs are shown, and nothing of them runs`, { timeout: 300_000 }, async () => {
  assert.ok(HOSTILE.length >= 50);
  const page = await person({ viewport: { width: 1000, height: 700 } });
  let ran = 0;
  await page.exposeFunction("reported", () => (ran += 1));
  await page.evaluate(() => { window.pwned = () => window.reported(); });
  await answers(page, ...HOSTILE.map((text) => stream(text)));
  for (const [at, text] of HOSTILE.entries()) {
    await exchange(page, `Say number ${at}`).catch((error) => assert.fail(`${text.slice(0, 60)}: ${error.message}`));
  }
  const found = await page.getByRole("log").evaluate((log) => {
    const all = [...log.querySelectorAll("*")];
    const bad = all.filter((it) => /^(script|style|iframe|object|embed|img|form|input|link|meta|base|noscript)$/i.test(it.localName));
    const attributes = all.flatMap((it) => [...it.attributes]).filter(({ name, value }) => /^on/i.test(name) || (/^(href|src|action|formaction|xlink:href)$/i.test(name) && !/^(https?:|mailto:)/i.test(value)));
    return { bad: bad.map((it) => it.outerHTML.slice(0, 200)), attributes: attributes.map(({ name, value }) => `${name}=${value}`.slice(0, 200)) };
  });
  assert.deepEqual(found, { bad: [], attributes: [] });
  for (const link of await page.getByRole("log").getByRole("link").all()) {
    assert.equal(await link.getAttribute("rel"), "noopener noreferrer nofollow");
  }
  await page.reload();
  await until("the conversation after a reload", async () => (await sayings(page).count()) > 20);
  assert.equal(ran, 0, "nothing ran");
});

test("the page stays quick at 200 tokens a second", { timeout: 300_000 }, async (t) => {
  const page = await person();
  await page.evaluate(() => {
    const real = window.fetch;
    window.fetch = (address, options) => {
      if (!String(address).includes("/v1/chat/completions")) return real(address, options);
      const bytes = new TextEncoder();
      const piece = (content) => bytes.encode(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`);
      let sent = 0;
      const begun = performance.now();
      const body = new ReadableStream({
        async pull(control) {
          // As many as are due by now.
          await new Promise((resolve) => setTimeout(resolve, 5));
          for (const due = Math.min(((performance.now() - begun) / 1000) * 200, 1000); sent < due; sent += 1) {
            control.enqueue(piece(sent % 40 === 39 ? "\n\n```js\nlet x = 1;\n```\n\n" : `word${sent} `));
          }
          if (sent < 1000) return;
          control.enqueue(bytes.encode("data: [DONE]\n\n"));
          control.close();
        },
      });
      return Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
    };
    window.gaps = [];
    let last = performance.now();
    const tick = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
  });
  await page.evaluate(() => {
    window.painted = 0;
    new MutationObserver(() => (window.painted += 1)).observe(document.querySelector("[role=log]"), { characterData: true, childList: true, subtree: true });
  });
  await composer(page).fill("Quick!");
  await composer(page).press("Enter");
  await until("half of it", async () => /word400/.test(await reply(page)), REPLY);
  await composer(page).pressSequentially("typed meanwhile");
  assert.equal(await composer(page).inputValue(), "typed meanwhile");
  await until("all of it", async () => /word998/.test(await reply(page)), REPLY);
  const { gaps, painted } = await page.evaluate(() => ({ gaps: window.gaps.sort((one, other) => one - other), painted: window.painted }));
  t.diagnostic(`of ${gaps.length} frames, one in twenty came more than ${Math.round(gaps[Math.floor(gaps.length * 0.95)])} ms after the one before; painted ${painted} times`);
  assert.ok(painted < 1000, `1000 tokens were painted in ${painted} parts: once a token, not once a frame`);
});

test("a conversation of 2,000 messages opens, scrolls and goes on", { timeout: 300_000 }, async (t) => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "corolla-"));
  try {
    const messages = Array.from({ length: 2000 }, (_, at) => ({
      id: `m${at}`, parent: at ? `m${at - 1}` : null, role: at % 2 ? "assistant" : "user", at, state: "done",
      text: at % 2 ? `Reply **${at}** with \`code\`:\n\n\`\`\`js\nlet x = ${at};\n\`\`\`\n\n- one\n- two` : `Question ${at}`,
    }));
    const file = path.join(folder, "long.json");
    await writeFile(file, JSON.stringify({ format: "corolla-chats", version: 1, chats: [{ id: "long", title: "Long", messages }] }));
    const page = await person();
    await answers(page, stream("still quick"));
    await page.getByRole("button", { name: "Settings" }).click();
    const begun = Date.now();
    await page.locator("input[type=file]").setInputFiles(file);
    await page.getByText("Reply 1999").waitFor();
    t.diagnostic(`opened in ${Date.now() - begun} ms`);
    assert.ok((await sayings(page).count()) <= 100, "only the latest are drawn");
    await page.getByRole("button", { name: "Close" }).click();
    await page.locator("#scroller").evaluate((it) => { it.scrollTop -= 300; });
    await page.locator("#scroller").evaluate((it) => { it.scrollTop = 0; });
    await until("earlier ones come", async () => (await sayings(page).count()) > 60);
    const sent = Date.now();
    await composer(page).fill("And now?");
    await composer(page).press("Enter");
    await page.getByText("still quick").waitFor();
    t.diagnostic(`a reply took ${Date.now() - sent} ms`);
  } finally {
    await rm(folder, { recursive: true });
  }
});
