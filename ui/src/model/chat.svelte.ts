// The open conversation: what is said in it, and the reply that is being written.

import { ApiError, type ChatRequest, type ChatUsage, type ReplyRoute, type Server } from "../api/client";
import { oneLine } from "./exchange";
import type { Keep } from "./keep";
import { Broken, Writer, type Written } from "./reply";
import { joined, Stopwatch } from "./speed";
import { added, changed, children, path, removed, turned } from "./tree";
import { newId, newSeed, newTalk, type Facts, type Mode, type Said, type Talk } from "./values";
import { messages, seen, shortened } from "./window";

/** Milliseconds between two times that a growing reply is kept. */
const KEEP_EVERY = 500;

/** A reply that is being written. */
export interface Live {
  id: string;
  text: string;
  /** `reading` until the first word, `healing` while a lost connection is taken up. */
  phase: "reading" | "writing" | "healing";
  watch: Stopwatch;
}

/** Something to tell, with what can be done about it. */
export interface Trouble {
  code: string;
  message: string;
  /** The reply it is about, and the message that it answers. */
  reply: string;
  parent: string | null;
}

/** The last reply as it stood when the page went away: what is kept meanwhile may be older. */
export type Parting = Pick<Said, "id" | "text" | "state" | "facts">;

/** What a conversation needs of the world around it. */
export interface Around {
  server: Server;
  keep: Keep;
  /** This tab's name, the same after a reload. */
  tab: string;
  now(): number;
  pause(ms: number, signal: AbortSignal): Promise<void>;
  /** What this tab left when it went away, at once. */
  parting: { get(): Parting | null; set(parting: Parting): void };
  /** Once the models are known, or cannot be. */
  ready(): Promise<void>;
  /** Tokens that a conversation with `model` can have. */
  room(model: string | null): number;
  /** The conversation was kept: the history may look again. */
  kept(): void;
  /** A reply was begun, or ended in this way. */
  tell(what: "begun" | "finished" | "stopped" | "failed"): void;
}

export class Chat {
  talk = $state.raw<Talk>(newTalk(null));
  live = $state<Live | null>(null);
  /** The way of the reply that is being written. */
  route = $state.raw<ReplyRoute | null>(null);
  trouble = $state.raw<Trouble | null>(null);
  readonly following = $derived(children(this.talk.messages));
  readonly shown = $derived(path(this.talk, this.following));

  private abort: AbortController | null = null;
  private readonly writer: Writer;
  private lastKept = 0;

  constructor(private readonly around: Around) {
    this.writer = new Writer(around.server, around.now, around.pause);
  }

  get busy(): boolean {
    return this.live !== null;
  }

  /** Shows another conversation. A reply that this tab broke off by a reload is taken up. */
  open(talk: Talk): void {
    this.halt();
    this.talk = talk;
    const kept = this.shown.at(-1);
    if (kept?.state !== "writing") return;
    if (talk.writer !== this.around.tab) {
      this.update(changed(talk, kept.id, { state: "cut" }), false);
      return;
    }
    const parting = this.around.parting.get();
    if (parting?.id === kept.id && parting.text.startsWith(kept.text)) this.update(changed(talk, kept.id, parting), false);
    const last = this.shown.at(-1) ?? kept;
    if (last.state === "writing") void this.write(last, last.facts?.tokens);
  }

  /** Begins another conversation, with the settings of this one. */
  fresh(model: string | null, mode: Mode = "chat"): void {
    this.halt();
    const { system, sampling, stop } = this.talk;
    this.talk = { ...newTalk(model, mode), system, sampling: { ...sampling }, stop };
  }

  /** Says `text` after what is shown, and asks for the reply. */
  say(text: string): void {
    if (this.busy) return;
    this.append(text, this.shown.at(-1)?.id ?? null);
  }

  /** Says `text` in place of `message`, on a branch of its own. */
  edit(message: Said, text: string): void {
    if (this.busy) return;
    this.append(text, message.parent);
  }

  /** Asks for another reply in place of `message`, on a branch of its own. */
  again(message: Said): void {
    if (this.busy) return;
    const [parent, talk] = [message.parent, this.talk];
    // A reply that broke off is replaced, not kept beside the new one.
    if (message.state === "cut") this.talk = removed(talk, message.id);
    this.ask(parent);
  }

  /** Asks again for the reply that the trouble is about. */
  retry(): void {
    const { trouble } = this;
    const reply = this.talk.messages.find((one) => one.id === trouble?.reply);
    if (reply) this.again(reply);
    else if (trouble && !this.busy) this.ask(trouble.parent);
  }

  /** Goes on with a reply after its last word, for as many tokens as one may have. */
  resume(id: string): void {
    const message = this.talk.messages.find((one) => one.id === id);
    if (!this.busy && message) void this.write(message);
  }

  turn(message: Said, step: number): void {
    if (!this.busy) this.update(turned(this.talk, message, step));
  }

  stop(): void {
    this.abort?.abort();
  }

  /** Changes the title, the model, or how replies are written. */
  set(change: Partial<Talk>): void {
    if (change.model !== undefined && change.model !== this.talk.model) this.writer.leave();
    this.update({ ...this.talk, ...change }, false);
  }

  /** Leaves out the oldest messages, and takes up the reply that had no room. */
  shorten(): void {
    const from = shortened(this.shown, this.talk.from, this.around.room(this.talk.model));
    this.trouble = null;
    this.update({ ...this.talk, from }, false);
    const last = this.shown.at(-1);
    if (last?.role === "assistant" && last.state === "cut") this.again(last);
    else if (last?.role === "user") this.ask(last.id);
  }

  /** The page is going away: closes the session, and leaves the reply as it stands to a reload. */
  leave(): void {
    const [{ live }, last] = [this, this.shown.at(-1)];
    if (live) this.around.parting.set({ id: live.id, text: live.text, state: "writing", facts: this.facts(null, this.route) });
    else if (last?.role === "assistant") this.around.parting.set({ id: last.id, text: last.text, state: last.state, facts: last.facts });
    this.keep();
    this.writer.leave();
  }

  /** Keeps the conversation as it stands, with the words of a reply that is being written. */
  keep(): void {
    const { live, talk } = this;
    if (!talk.messages.length) return;
    this.lastKept = this.around.now();
    const whole = live ? changed(talk, live.id, { text: live.text, facts: this.facts(null, this.route) }) : talk;
    this.around.keep.save({ ...whole, writer: this.around.tab }).then(() => this.around.kept(), () => this.around.kept());
  }

  private halt(): void {
    const { live, abort } = this;
    if (live && abort) {
      // What was written so far stays with the conversation that it belongs to.
      this.end(live.id, { text: live.text, finish: null, usage: null, route: this.route });
      this.abort = null;
      abort.abort();
    }
    this.writer.leave();
    this.trouble = null;
  }

  private append(text: string, parent: string | null): void {
    const said: Said = { id: newId(), parent, role: "user", text, at: Date.now(), state: "done" };
    const talk = added(this.talk, said);
    this.talk = talk.title ? talk : { ...talk, title: oneLine(text) };
    this.ask(said.id);
  }

  private ask(parent: string | null): void {
    const reply: Said = { id: newId(), parent, role: "assistant", text: "", at: Date.now(), state: "writing", seed: newSeed() };
    this.update(added(this.talk, reply));
    void this.write(reply);
  }

  /** Writes `reply`, or what is left of it; `spent` tokens of its longest are there. */
  private async write(reply: Said, spent = 0): Promise<void> {
    const abort = new AbortController();
    const watch = new Stopwatch(this.around.now());
    this.abort = abort;
    this.trouble = null;
    this.live = { id: reply.id, text: reply.text, phase: "reading", watch };
    this.route = null;
    this.update(changed(this.talk, reply.id, { state: "writing" }), false);
    this.around.tell("begun");
    const on = {
      text: (text: string, tokens: number, route: ReplyRoute | null) => {
        if (this.abort !== abort || !this.live) return;
        watch.more(this.around.now(), tokens);
        this.route = route;
        this.live.text = text;
        this.live.phase = "writing";
        if (this.around.now() - this.lastKept > KEEP_EVERY) this.keep();
      },
      healing: () => {
        if (this.abort === abort && this.live) this.live.phase = "healing";
      },
    };
    try {
      await this.around.ready();
      const written = await this.request(reply, spent, abort.signal, on);
      if (this.abort === abort) this.end(reply.id, written);
    } catch (error) {
      if (this.abort === abort) this.fail(reply.id, error);
    } finally {
      if (this.abort === abort) this.abort = null;
    }
  }

  private request(reply: Said, spent: number, signal: AbortSignal, on: Parameters<Writer["chat"]>[4]): Promise<Written> {
    const { talk } = this;
    const before = this.shown.slice(0, this.shown.findIndex((one) => one.id === reply.id));
    const room = this.around.room(talk.model);
    const seed = reply.seed ?? 0;
    if (talk.mode === "raw") {
      const prompt = seen(before, talk.from).map((one) => one.text).join(talk.stop || "\n\n");
      return this.writer.raw({ prompt, stop: talk.stop, seed, sampling: talk.sampling }, talk.model, room, reply.text, signal, on);
    }
    const request: ChatRequest = { messages: messages(talk, before), seed, stream: true };
    for (const [key, value] of Object.entries(talk.sampling)) if (value !== null) Object.assign(request, { [key]: value });
    if (talk.model) request.model = talk.model;
    return this.writer.chat(request, room, { text: reply.text, tokens: spent }, signal, on);
  }

  private end(id: string, written: Written): void {
    const facts = this.facts(written.usage, written.route);
    const stopped = written.finish === null;
    const parent = this.talk.messages.find((one) => one.id === id)?.parent ?? null;
    this.live = null;
    const empty = written.text.trim() === "";
    if (empty && stopped) this.update(removed(this.talk, id));
    else this.update(changed(this.talk, id, { text: written.text, state: stopped ? "stopped" : "done", facts }));
    if (!stopped) this.remark(id, parent, written);
    this.around.tell(stopped ? "stopped" : "finished");
  }

  /** The facts of the reply that is being written, with those of its earlier stretches. */
  private facts(usage: ChatUsage | null, route: ReplyRoute | null): Facts | undefined {
    const { live, talk } = this;
    return live ? joined(talk.messages.find((one) => one.id === live.id)?.facts, live.watch.facts(talk.model, usage, route)) : undefined;
  }

  /** What to say of a reply that ended otherwise than by its own last word. */
  private remark(reply: string, parent: string | null, { finish, text }: Written): void {
    const limits = { length: "as_long_as_may_be", full: "full" };
    const chats = this.talk.mode === "chat";
    if (finish === "length" || finish === "full") this.trouble = { code: chats ? limits[finish] : "raw_length", message: "", reply, parent };
    else if (!text.trim()) this.trouble = { code: "empty", message: "", reply, parent };
  }

  private fail(id: string, error: unknown): void {
    const reason = error instanceof Broken ? error.reason : error;
    const text = error instanceof Broken ? error.text : (this.live?.text ?? "");
    const facts = this.facts(null, error instanceof Broken ? error.route : this.route);
    this.live = null;
    const parent = this.talk.messages.find((one) => one.id === id)?.parent ?? null;
    this.update(text ? changed(this.talk, id, { text, state: "cut", facts }) : removed(this.talk, id));
    const code = reason instanceof ApiError ? reason.code : "page";
    this.trouble = { code, message: reason instanceof Error ? reason.message : "", reply: id, parent };
    if (code === "page") console.warn("a reply failed", reason);
    this.around.tell("failed");
  }

  private update(talk: Talk, said = true): void {
    this.talk = said ? { ...talk, changed: Date.now() } : talk;
    this.keep();
  }
}
