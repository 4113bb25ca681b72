// Servers that fail: one that restarts in mid-reply, one whose blocks nobody hosts, a swarm that loses a host. See all.mjs.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";

import { begun, enough, LONG, person, picture, reply, say, stopButton, until, values } from "./kit.mjs";

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
function start(program, args) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], detached: true });
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
    const before = await reply(page);
    await server.end("SIGKILL");
    await until("the page says what it does", async () => /connection is lost/.test(await page.locator(".writing").innerText()));
    server = serve();
    await until("the reply goes on", async () => (await reply(page)).length > before.length + 20 && !/connection is lost/.test(await reply(page)), LOAD);
    assert.ok((await reply(page)).startsWith(before.slice(0, 40)), "with its beginning");
    await enough(page);
    await page.context().close();
  } finally {
    await server.end("SIGKILL");
  }
});

test("a model whose blocks nobody hosts says so, and what to do", { skip, timeout: 300_000 }, async () => {
  const folder = await mkdtemp(path.join(os.tmpdir(), "corolla-"));
  const boot = start(values.binary, ["bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--model", "smollm2-135m-instruct", "--dht-prefix", "empty"]);
  let server;
  try {
    const token = await until("the join token", () => /corolla1-[\w-]+/.exec(boot.out)?.[0], LOAD);
    const at = `127.0.0.1:${await freePort()}`;
    await writeFile(path.join(folder, "corolla.toml"), `[[models]]\nid = "smollm2-135m-instruct"\npath = ${JSON.stringify(MODEL)}\nblocks = "swarm"\n\n[models.swarm]\njoin = "${token}"\n`);
    server = start(values.binary, ["serve", "--listen", at, "--config", path.join(folder, "corolla.toml")]);
    await until("the server listens", () => fetch(`http://${at}/health/live`).then((answer) => answer.ok, () => false), LOAD);
    const page = await person({ at: `http://${at}`, expected: EXPECTED });
    await page.getByText("The model cannot answer yet").first().waitFor({ timeout: LOAD });
    await page.goto(`http://${at}/#/swarm`);
    await page.getByText("Nobody hosts blocks 0–29").waitFor({ timeout: LOAD });
    await page.getByRole("textbox", { name: "Join token" }).fill(token);
    await page.getByText(`corolla host --join ${token}`).waitFor();
    await page.context().close();
  } finally {
    await server?.end("SIGKILL");
    await boot.end("SIGKILL");
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
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByRole("spinbutton", { name: "Longest reply" }).fill("120");
    await page.getByRole("button", { name: "Close" }).click();
    await say(page, LONG);
    await begun(page);
    const hop = (await (await fetch(`http://${at}/api/v1/swarm`)).json()).models[0];
    const onRoute = hop.servers.find((one) => one.peer === hop.route[0].peer).name;
    const pid = new RegExp(`kill -9 (\\d+) .*\\(${onRoute}\\)`).exec(demo.out)?.[1];
    assert.ok(pid, `the demo says how to end ${onRoute}:\n${demo.out}`);
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
    await page.context().close();
  } finally {
    await demo.end("SIGINT");
  }
});

