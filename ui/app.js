// The page: what is shown, and what the keys and buttons do.

import { models } from "./api.js";
import { Chat, LONGEST_REPLY } from "./chat.js";
import { render } from "./render.js";
import { Speed } from "./speed.js";

const $ = (id) => document.getElementById(id);
const [scroller, log, notice, latest, composer, text, send, stop, welcome] =
  ["scroller", "log", "notice", "latest", "composer", "text", "send", "stop", "welcome"].map($);
const chat = new Chat();
/** Pixels from the end within which the view follows what is written. */
const NEAR = 64;
let follow = true;
let catalogue = null;

// ---- What was said ----

function bubble(role, words = "") {
  const item = document.createElement("li");
  item.className = `said ${role}`;
  const who = document.createElement("span");
  who.className = "unseen";
  who.textContent = role === "user" ? "You: " : "Reply: ";
  item.append(who);
  if (role === "user") {
    item.append(words);
  } else {
    const flower = $("welcome").querySelector("svg").cloneNode(true);
    flower.setAttribute("class", "flower");
    const body = document.createElement("div");
    body.className = "words";
    render(body, words);
    item.append(flower, body);
  }
  log.append(item);
  return item;
}

function redraw() {
  log.replaceChildren();
  for (const message of chat.messages) bubble(message.role, message.content);
  welcome.hidden = chat.messages.length > 0;
  toEnd();
}

function toEnd() {
  follow = true;
  latest.hidden = true;
  scroller.scrollTop = scroller.scrollHeight;
}

// ---- One reply ----

async function answer() {
  hush();
  const item = bubble("assistant");
  const words = item.querySelector(".words");
  const waiting = document.createElement("p");
  waiting.className = "thinking";
  waiting.textContent = "Reading…";
  words.append(waiting);
  item.classList.add("writing");
  busy(true);
  tell("The reply is being written.");
  toEnd();
  const speed = new Speed((line) => ($("speed").textContent = line));
  const paint = painter(words);
  try {
    const reply = await chat.reply((all) => {
      speed.more();
      paint(all);
    });
    paint.now(reply.text);
    finished(item, reply, speed);
  } catch (error) {
    if (error.partial) paint.now(error.partial);
    else item.remove();
    trouble(error);
  } finally {
    item.classList.remove("writing");
    speed.end();
    busy(false);
  }
}

/** Shows text at most once a frame, and keeps the end in view while the reader is there. */
function painter(words) {
  let next = null;
  const show = (all) => {
    render(words, all);
    if (follow) scroller.scrollTop = scroller.scrollHeight;
  };
  const paint = (all) => {
    if (next === null) requestAnimationFrame(() => { if (next !== null) show(next); next = null; });
    next = all;
  };
  paint.now = (all) => { next = null; show(all); };
  return paint;
}

/** What to say of servers that were lost while the reply was written. */
function replaced(route) {
  const count = route?.failovers.length ?? 0;
  if (!count) return "";
  const pause = route.failovers.reduce((sum, failover) => sum + failover.pause_ms, 0) / 1000;
  return `${count === 1 ? "a server was" : `${count} servers were`} replaced in ${pause.toFixed(1)} s`;
}

function finished(item, reply, speed) {
  const meta = document.createElement("p");
  meta.className = "meta";
  meta.textContent = [reply.stopped ? "Stopped" : "", speed.summary(reply.usage), replaced(reply.route)].filter(Boolean).join(" · ");
  if (reply.text) {
    if (meta.textContent) item.append(meta);
  } else {
    item.remove();
  }
  tell(reply.stopped ? "Reply stopped." : "Reply finished.");
  if (reply.finish === "length") {
    const cut = (reply.usage?.completion_tokens ?? 0) >= LONGEST_REPLY;
    if (cut) say("This is as long as one reply may be.", "Ask for the rest to read on.", "Go on", () => submit("Go on."));
    else say("The conversation is full.", "The model cannot hold more of it than this.", "New chat", fresh);
  } else if (!reply.text && !reply.stopped) {
    say("The reply was empty.", "The model ended it before its first word.", "Try again", answer);
  }
  if (follow) toEnd();
}

// ---- Trouble, in words that help ----

const WORDS = {
  unreachable: ["The server cannot be reached.", "Check that it is running and that you are connected."],
  cut: ["The connection broke off.", "The reply is not complete."],
  busy: ["Many people are chatting right now.", "It should be your turn in a moment."],
  out_of_capacity: ["The server has no room for another reply right now.", "Try again in a moment."],
  unavailable: ["The model cannot answer yet.", ""],
  timed_out: ["The reply took too long.", "The model may be busy; try again, or ask for something shorter."],
  unsupported: ["This model cannot chat.", "Pick another model, if there is one."],
};

function trouble(error) {
  tell("The reply failed.");
  if (error.code === "context_length_exceeded" || error.code === "prefix_too_long") {
    say("The conversation has become too long for this model.", "Begin a new one; this one stays until then.", "New chat", fresh);
    return;
  }
  const [title, more] = WORDS[error.code] ?? ["That did not work.", sentence(error)];
  say(title, more || sentence(error), "Try again", () => {
    chat.unsay();
    redraw();
    answer();
  });
  console.warn("reply failed", error.code, error.message);
}

function sentence(error) {
  if (!error.code) return "Something unexpected happened in the page.";
  return error.message.charAt(0).toUpperCase() + error.message.slice(1) + (/[.!?]$/.test(error.message) ? "" : ".");
}

function say(title, more, label, action) {
  const words = document.createElement("p");
  const strong = document.createElement("strong");
  strong.textContent = title;
  words.append(strong, more);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.addEventListener("click", () => { hush(); text.focus(); action(); });
  notice.replaceChildren(words, button);
  notice.setAttribute("role", "alert");
  notice.hidden = false;
  if (follow) toEnd();
}

function hush() {
  notice.hidden = true;
  notice.replaceChildren();
}

function tell(line) {
  $("status").textContent = line;
}

// ---- Writing and sending ----

function busy(on) {
  send.hidden = on;
  stop.hidden = !on;
  $("model").disabled = on;
  log.setAttribute("aria-busy", String(on));
  ready();
  text.focus({ preventScroll: true });
}

function ready() {
  send.disabled = text.value.trim() === "";
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  ready();
}

function submit(words) {
  const said = words.trim();
  if (!said || chat.busy) return;
  welcome.hidden = true;
  chat.say(said);
  bubble("user", said);
  answer();
}

function fresh() {
  chat.clear();
  hush();
  redraw();
  $("speed").textContent = "";
  tell("New chat.");
  text.focus();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (chat.busy) return;
  const words = text.value;
  text.value = "";
  grow();
  submit(words);
});
text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    composer.requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.busy) {
    event.preventDefault();
    chat.stop();
  }
});
stop.addEventListener("click", () => chat.stop());
$("new").addEventListener("click", fresh);
$("ideas").addEventListener("click", (event) => {
  const idea = event.target.closest("button");
  if (idea) submit(idea.textContent);
});
latest.addEventListener("click", toEnd);
scroller.addEventListener("scroll", () => {
  const away = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  follow = away < NEAR;
  latest.hidden = follow;
}, { passive: true });
addEventListener("pagehide", () => chat.leave());

// ---- Models ----

async function meet() {
  try {
    catalogue = await models();
  } catch (error) {
    say(...(WORDS[error.code] ?? WORDS.unreachable), "Try again", meet);
    return;
  }
  const wanted = catalogue.models.find((one) => one.id === chat.model) ?? catalogue.models.find((one) => one.default);
  const several = catalogue.models.length > 1;
  $("model-choice").hidden = !several;
  $("model-name").hidden = several;
  $("model-name").textContent = wanted.id;
  $("model").replaceChildren(...catalogue.models.map((one) => {
    const option = new Option(one.state === "ready" ? one.id : `${one.id} (${one.state})`, one.id);
    option.selected = one === wanted;
    return option;
  }));
  chat.use(wanted, catalogue.sessions);
  $("welcome-text").textContent = wanted.state === "ready"
    ? `${wanted.id} answers here. It can be wrong, so check what matters.`
    : wanted.state === "loading"
      ? "The model is being loaded. You can write already; it answers in a moment."
      : `The model cannot answer yet: ${wanted.missing}.`;
  if (wanted.state !== "ready") setTimeout(meet, 2000);
}

$("model").addEventListener("change", (event) => {
  const chosen = catalogue.models.find((one) => one.id === event.target.value);
  if (chosen) chat.use(chosen, catalogue.sessions);
  text.focus();
});

redraw();
grow();
meet();
