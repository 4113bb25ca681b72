// Servers that fail: one that restarts in mid-reply, one whose blocks nobody hosts, a swarm that loses a host. See all.mjs.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";

import { begun, composer, enough, LONG, longest, person, picture, reply, say, sayings, stopButton, until, values, words } from "./kit.mjs";

const skip = values.binary ? false : "no --binary was given";
const MODEL = path.resolve("models/SmolLM2-135M-Instruct.Q4_1.gguf");
const LOAD = 120_000; // until a model is loaded, on a busy machine

async function freePort() {
  const socket = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => socket.on("listening", resolve));
  const { port } = socket.address();
  await new Promise((resolve) => socket.close(resolve));
  return port;
}

/** A program that is started; `out` is what it said so far. */
function start(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], detached: true, ...options });
  const process = { child, out: "" };
  for (const pipe of [child.stdout, child.stderr]) pipe.on("data", (data) => (process.out += data));
  process.ended = new Promise((resolve) => child.on("exit", resolve));
  process.end = async (signal = "SIGTERM") => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await process.ended;
  };
  return process;
}

const ready = (at) => until(`${at} is ready`, () => fetch(`${at}/health/ready`).then((answer) => answer.ok, () => false), LOAD);
const EXPECTED = /ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|ERR_SOCKET|Failed to load resource|503|404/;

test("a server that restarts in mid-reply is taken up, and the reply is brought to its end", { skip, timeout: 300_000 }, async () => {
  const at = `127.0.0.1:${await freePort()}`;
  const serve = () => start(values.binary, ["serve", "--listen", at]);
  let server = serve();
  try {
    await ready(`http://${at}`);
    const page = await person({ at: `http://${at}`, expected: EXPECTED });
    await say(page, LONG);
    await begun(page);
    const before = await words(page);
    await server.end("SIGKILL");
    await until("the page says what it does", async () => /connection is lost/.test(await page.locator(".writing").innerText()));
    server = serve();
    await until("the reply goes on", async () => (await words(page)).length > before.length + 60, LOAD);
    const whole = await words(page);
    assert.ok(whole.startsWith(before) && !whole.slice(before.length).includes(before.slice(0, 40)), `no word is lost, none comes twice: ${before} / ${whole}`);
    await enough(page);
    await page.context().close();
  } finally {
    await server.end("SIGKILL");
  }
});

test("a model whose blocks nobody hosts says so, and the command on the page brings them", { skip, timeout: 300_000 }, async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "corolla-"));
  const boot = start(values.binary, ["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--model", "smollm2-135m-instruct", "--dht-prefix", "empty"]);
  let server, host;
  try {
    const token = await until("the join token", () => /corolla1-[\w-]+/.exec(boot.out)?.[0], LOAD);
    const at = `127.0.0.1:${await freePort()}`;
    await writeFile(path.join(folder, "corolla.toml"), `[[models]]\nid = "smollm2-135m-instruct"\npath = ${JSON.stringify(MODEL)}\nblocks = "swarm"\n\n[models.swarm]\njoin = "${token}"\n`);
    server = start(values.binary, ["serve", "--listen", at, "--config", path.join(folder, "corolla.toml")]);
    await until("the server listens", () => fetch(`http://${at}/health/live`).then((answer) => answer.ok, () => false), LOAD);
    const page = await person({ at: `http://${at}`, expected: EXPECTED, permissions: ["clipboard-read", "clipboard-write"], viewport: { width: 1000, height: 620 } });
    await page.getByText("The model cannot answer yet").first().waitFor({ timeout: LOAD });
    await composer(page).fill("Why is the sky blue?");
    await composer(page).press("Enter");
    await page.getByRole("alert").getByText("The model cannot answer yet.").waitFor();
    assert.match(await page.getByRole("alert").innerText(), /block/, "it says what is missing");
    await picture(page, "error");
    await page.goto(`http://${at}/#/swarm`);
    await page.getByText("Nobody hosts blocks 0–29").waitFor({ timeout: LOAD });
    await page.locator(".command").getByRole("button", { name: "Copy" }).click();
    const command = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(command, `corolla host --join ${token} --model ${path.basename(MODEL)} --listen /ip4/0.0.0.0/tcp/31401`);
    // As somebody runs it who has the program and, in this folder, the model.
    await symlink(path.resolve(values.binary), path.join(folder, "corolla"));
    await symlink(MODEL, path.join(folder, path.basename(MODEL)));
    await rm(path.join(folder, "corolla.toml"));
    host = start("sh", ["-c", `exec ${command}`], { cwd: folder, env: { ...process.env, PATH: `${folder}:${process.env.PATH}`, COROLLA_CACHE: folder } });
    await page.getByText("All 30 blocks are hosted, by 1 server").waitFor({ timeout: LOAD }).catch((error) => assert.fail(`${error.message}\n${host.out}`));
    await page.goto(`http://${at}/#/`);
    await say(page, "Why is the sky blue?");
    await begun(page);
    await enough(page);
    await page.context().close();
  } finally {
    await host?.end("SIGKILL");
    await server?.end("SIGKILL");
    await boot.end("SIGKILL");
    await rm(folder, { recursive: true });
  }
});

test("a server that asks for a key tells so before the first word, and knows it after a reload", { skip, timeout: 300_000 }, async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "corolla-"));
  const made = start(values.binary, ["key"]);
  await made.ended;
  const [, key, rules] = /(corolla-\S+)[\s\S]*?(\[\[api_keys\]\][\s\S]*)/.exec(made.out);
  const at = `127.0.0.1:${await freePort()}`;
  await writeFile(path.join(folder, "corolla.toml"), `${rules}\n[[models]]\nid = "smollm2-135m-instruct"\npath = ${JSON.stringify(MODEL)}\n`);
  const server = start(values.binary, ["serve", "--listen", at, "--config", path.join(folder, "corolla.toml")]);
  try {
    await ready(`http://${at}`);
    const page = await person({ at: `http://${at}`, expected: /401/ });
    const alert = page.getByRole("alert");
    const give = async (words) => {
      await alert.getByRole("button", { name: "Enter a key" }).click();
      await until("the caret is in the field", () => page.evaluate(() => document.activeElement?.id === "key"));
      await page.keyboard.type(words);
      await page.keyboard.press("Enter");
      await page.keyboard.press("Escape");
    };
    await alert.getByText("This server asks for an API key.").waitFor();
    await give("corolla-wrong");
    await alert.getByText("This server does not know your API key.").waitFor();
    await give(key);
    await alert.getByText("API key").waitFor({ state: "hidden" });
    await page.reload();
    await say(page, "Why is the sky blue?");
    await begun(page);
    await enough(page);
    await page.getByRole("button", { name: "New chat" }).click();
    await page.getByRole("button", { name: "Few-shot mode" }).click();
    await page.getByRole("button", { name: "Send" }).click();
    await until("a text that goes on", async () => (await reply(page)).length > 5 && !/Reading/.test(await reply(page)), LOAD);
    await enough(page);
    await page.goto(`http://${at}/#/swarm`);
    await page.getByText("All 30 blocks run on this server").waitFor();
    await page.context().close();
  } finally {
    await server.end("SIGKILL");
    await rm(folder, { recursive: true });
  }
});

test("in a swarm a reply shows its route, and who was replaced", { skip, timeout: 400_000 }, async () => {
  const at = `127.0.0.1:${await freePort()}`;
  const demo = start("python3", ["-u", "scripts/swarm_demo.py", values.binary, "--listen", at]);
  try {
    await ready(`http://${at}`).catch((error) => assert.fail(`${error.message}\n${demo.out}`));
    const page = await person({ at: `http://${at}`, expected: EXPECTED, viewport: { width: 1200, height: 900 } });
    await page.getByText("other machines, whose owners could see what you write").waitFor();
    await page.goto(`http://${at}/#/swarm`);
    await page.getByText("All 30 blocks are hosted, by 3 servers").waitFor();
    assert.equal(await page.getByRole("row").count(), 4, "a row for each server");
    await page.goto(`http://${at}/#/`);
    await longest(page, 120);
    await say(page, LONG);
    await begun(page);
    const hop = (await (await fetch(`http://${at}/api/v1/swarm`)).json()).models[0];
    const onRoute = hop.servers.find((one) => one.peer === hop.route[0].peer).name;
    const pid = new RegExp(`kill -9 (\\d+) .*\\(${onRoute}\\)`).exec(demo.out)?.[1];
    assert.ok(pid, `the demo says how to end ${onRoute}:\n${demo.out}`);
    await page.locator(".writing").getByText(/Route: \d servers?/).waitFor();
    const length = (await reply(page)).length;
    process.kill(Number(pid), "SIGKILL");
    await until("the reply goes on", async () => (await reply(page)).length > length + 20, LOAD);
    await stopButton(page).waitFor({ state: "hidden", timeout: LOAD });
    await page.getByText(/server replaced/).click();
    await page.getByText(/was lost at token \d+/).waitFor();
    assert.ok((await page.locator(".hops li").count()) >= 1);
    await page.getByText(/was lost at token/).scrollIntoViewIfNeeded();
    await picture(page, "route");
    await page.goto(`http://${at}/#/swarm`);
    await page.getByText("The latest reply took").waitFor();
    await picture(page, "swarm");
    await page.getByRole("link", { name: "Back to the chat" }).click();
    await longest(page, 1000);
    await say(page, LONG);
    await begun(page);
    await page.getByRole("link", { name: "Swarm" }).click();
    await page.getByText("The reply that is being written takes").waitFor();
    await page.getByRole("link", { name: "Back to the chat" }).click();
    await enough(page);
    // A reply may be short, and over before it is stopped.
    const stopped = sayings(page).last().getByText("Stopped");
    for (let more = 3; more > 0 && !(await stopped.isVisible()); more--) {
      await say(page, LONG);
      await begun(page);
      await enough(page);
    }
    await stopped.waitFor();
    await sayings(page).last().getByText(/Route: \d servers?/).click();
    assert.ok((await sayings(page).last().locator(".hops li").count()) >= 1, "a reply that was stopped shows its route");
    await page.context().close();
  } finally {
    await demo.end("SIGINT");
  }
});

