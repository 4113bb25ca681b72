// A conversation: what was said, the session it lives in, and one reply at a time.

import { ApiError, chat, closeSession, openSession } from "./api.js";

const KEPT = "corolla.chat";
const SAMPLING = { temperature: 0.75, top_p: 0.9 };
/** New tokens of one reply. */
export const LONGEST_REPLY = 1024;
/** Tokens of a session where the model and the server would allow more. */
const ROOM = 4096;
/** Why a reply was stopped whose conversation is no more. */
const FORGET = new DOMException("a new chat was begun", "AbortError");

export class Chat {
  constructor() {
    this.messages = [];
    this.model = null;
    this.room = null;
    this.session = null;
    this.abort = null;
    this.restore();
  }

  get busy() {
    return this.abort !== null;
  }

  /** Talks to `model` from now on. */
  use(model, limits) {
    if (model.id !== this.model) this.leave();
    this.model = model.id;
    this.room = Math.min(model.context_length ?? ROOM, limits.max_length, ROOM);
    this.keep();
  }

  /** Forgets everything that was said. */
  clear() {
    this.abort?.abort(FORGET);
    this.abort = null;
    this.leave();
    this.messages = [];
    this.keep();
  }

  /** Stops the reply that is being written. */
  stop() {
    this.abort?.abort();
  }

  /** Closes the session; the next reply opens another. */
  leave() {
    if (this.session) closeSession(this.session);
    this.session = null;
  }

  say(text) {
    this.messages.push({ role: "user", content: text });
    this.keep();
  }

  /** Takes back a reply that broke off, so that it can be asked for again. */
  unsay() {
    if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
    this.keep();
  }

  /**
   * Asks for the next message. `onText` gets all of its text each time there is more.
   * Returns `{ text, finish, usage, route, stopped }`; what was written before a failure is on the error as `partial`.
   */
  async reply(onText) {
    const abort = new AbortController();
    this.abort = abort;
    let text = "";
    let end = {};
    try {
      for (let attempt = 0; ; attempt += 1) {
        try {
          await this.enter();
          for await (const piece of chat(this.request(), abort.signal)) {
            if (piece.text) onText((text += piece.text));
            else end = piece;
          }
          break;
        } catch (error) {
          // An expired session is no one's business: open another and say everything again.
          if (error.code !== "session_gone" || attempt > 0 || abort.signal.aborted) throw error;
          this.session = null;
          text = "";
        }
      }
      return { text, ...end, stopped: false };
    } catch (error) {
      if (abort.signal.aborted) return { text, finish: null, usage: null, route: null, stopped: true };
      error.partial = text;
      throw error;
    } finally {
      if (this.abort === abort) this.abort = null;
      if (text && abort.signal.reason !== FORGET) this.messages.push({ role: "assistant", content: text });
      this.keep();
    }
  }

  request() {
    const request = { messages: this.messages, max_tokens: LONGEST_REPLY, ...SAMPLING };
    if (this.model) request.model = this.model;
    if (this.session) request.session_id = this.session;
    return request;
  }

  /** Opens a session where there is none. Where none is to be had, the chat goes on without. */
  async enter() {
    if (this.session) return;
    try {
      this.session = await openSession(this.model, this.room);
    } catch (error) {
      if (!(error instanceof ApiError) || !["too_many_sessions", "no_session"].includes(error.code)) throw error;
    }
  }

  keep() {
    try {
      sessionStorage.setItem(KEPT, JSON.stringify({ messages: this.messages, model: this.model }));
    } catch {
      // Private windows may refuse; then a reload starts afresh.
    }
  }

  restore() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
      const fine = (message) => ["user", "assistant"].includes(message?.role) && typeof message.content === "string";
      this.messages = Array.isArray(kept.messages) ? kept.messages.filter(fine) : [];
      this.model = typeof kept.model === "string" ? kept.model : null;
    } catch {
      this.messages = [];
    }
  }
}
