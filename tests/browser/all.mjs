// Uses the page as a person does: node tests/browser/all.mjs http://127.0.0.1:8000 [--pictures DIR] [--binary BINARY]
// Needs a running server with a small chat model and nobody else talking to it, and a Chromium (CHROMIUM, default /usr/bin/chromium).
// With a binary, servers of its own are started too: one that restarts, one whose blocks nobody hosts, a swarm.

await import("./chat.mjs");
await import("./talk.mjs");
await import("./heal.mjs");
await import("./hostile.mjs");
await import("./access.mjs");
await import("./servers.mjs");
