// One reply at a time, in a session that keeps what was computed. Lost sessions and connections are healed here: what was
// written goes on after the last word that came.

import { ApiError, type ChatRequest, type ChatUsage, type GenerateForm, type ReplyRoute, type Server } from "../api/client";
import { further } from "./route";
import type { Sampling } from "./values";

/** How a reply ended. */
export interface Written {
  text: string;
  /** `stop`; `length`, its longest; `full`, the model has no room for more; `null` where a person stopped it. */
  finish: "stop" | "length" | "full" | null;
  usage: ChatUsage | null;
  route: ReplyRoute | null;
}

/** A reply that could not be brought to its end. */
export class Broken extends Error {
  constructor(
    readonly reason: unknown,
    readonly text: string,
    readonly route: ReplyRoute | null,
  ) {
    super(reason instanceof Error ? reason.message : String(reason));
  }
}

export interface Listener {
  /** All of the text, whenever there is more of it, the tokens that came with it, and the way they came. */
  text(text: string, tokens: number, route: ReplyRoute | null): void;
  /** The connection is lost, and taken up again. */
  healing(): void;
}

/** What of a reply is there already, and how many tokens of its longest that took. */
export interface Begun {
  text: string;
  tokens: number;
}

/** What a raw text is continued with. */
export interface RawRequest {
  prompt: string;
  stop: string;
  seed: number;
  sampling: Sampling;
}

/** Milliseconds between attempts to take up a lost connection: half a minute in all. */
export const PAUSES = [250, 500, 1000, 2000, 4000, 5000, 8000, 10_000];
/** What a server says that is full for a moment. */
const FULL = ["busy", "rate_limited", "too_many_requests", "too_many_connections"];
/** Attempts then, and the longest wait it may ask for, in seconds. */
const FULL_TRIES = 3;
const FULL_WAIT = 10;
/** Milliseconds that one step of a raw text should take, and the most tokens in it. */
const STEP_MS = 150;
const STEP_TOKENS = 8;
/** Texts of tokens that end a text. */
const END = /(?:<\/s>|<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>)$/;

export class Writer {
  private session: string | null = null;
  private owner = "";
  /** What a raw text's session holds. */
  private held = "";

  constructor(
    private readonly server: Server,
    private readonly now: () => number,
    private readonly pause: (ms: number, signal: AbortSignal) => Promise<void>,
  ) {}

  /** Closes the session; the next reply opens another. */
  leave(): void {
    if (this.session) this.server.closeSession(this.session);
    this.forget();
  }

  /** Writes the next message of a chat, or the rest of it. */
  async chat(request: ChatRequest, room: number, begun: Begun, signal: AbortSignal, on: Listener): Promise<Written> {
    const healing = new Healing();
    let { text } = begun;
    let tokens = 0;
    let route: ReplyRoute | null = null;
    for (;;) {
      const [carried, way] = [tokens, route];
      const left = (request.max_tokens ?? Infinity) - begun.tokens - carried;
      if (left <= 0) return { text, finish: "length", usage: null, route };
      try {
        await this.enter(request.model ?? null, room);
        for await (const piece of this.server.chat(this.asked(request, text, left), signal)) {
          if (piece.route) route = further(way, piece.route);
          if ("finish" in piece) {
            const full = piece.finish === "length" && (piece.usage?.completion_tokens ?? tokens - carried) < left;
            const finish = full ? "full" : piece.finish === "length" ? "length" : "stop";
            return { text, finish, usage: counted(piece.usage, carried), route };
          }
          text += piece.text;
          tokens += 1;
          healing.better();
          on.text(text, 1, route);
        }
        throw new ApiError("cut", "the connection broke off");
      } catch (error) {
        const stopped: Written = { text, finish: null, usage: null, route };
        if (signal.aborted || (await this.heal(error, healing, signal, on, stopped))) return stopped;
      }
    }
  }

  /** `request` for what follows `text`. Another seed, since that of the beginning would draw the same words again. */
  private asked(request: ChatRequest, text: string, left: number): ChatRequest {
    const asked: ChatRequest = this.session ? { ...request, session_id: this.session } : { ...request };
    if (Number.isFinite(left)) asked.max_tokens = left;
    if (!text) return asked;
    const messages = [...request.messages, { role: "assistant" as const, content: text }];
    return { ...asked, messages, continue_final_message: true, seed: (request.seed ?? 0) + text.length };
  }

  /** Continues a raw text after `old`. */
  async raw(request: RawRequest, model: string | null, room: number, old: string, signal: AbortSignal, on: Listener): Promise<Written> {
    const healing = new Healing();
    let [text, tokens, size] = [old, 0, 1];
    let route: ReplyRoute | null = null;
    for (;;) {
      try {
        await this.enter(model, room, true);
        const whole = request.prompt + text;
        if (!whole.startsWith(this.held)) {
          this.leave();
          continue;
        }
        const begun = this.now();
        const step = await this.server.step(this.form(request, whole.slice(this.held.length), size, text.length), signal);
        healing.better();
        this.held = whole + step.text;
        route = further(route, step.route);
        tokens += step.tokens;
        const { shown, ended } = cutAt(text + step.text, request.stop);
        if (shown !== text) on.text(shown, step.tokens, route);
        text = shown;
        if (ended) return { text, finish: "stop", usage: null, route };
        if (step.full || tokens >= request.sampling.max_tokens) return { text, finish: "length", usage: null, route };
        const each = Math.max((this.now() - begun) / Math.max(step.tokens, 1), 1);
        size = Math.max(1, Math.min(STEP_TOKENS, Math.floor(STEP_MS / each), request.sampling.max_tokens - tokens));
      } catch (error) {
        const stopped: Written = { text, finish: null, usage: null, route };
        // What the session has is not known any more.
        this.leave();
        if (signal.aborted || (await this.heal(error, healing, signal, on, stopped))) return stopped;
      }
    }
  }

  private form(request: RawRequest, inputs: string, size: number, at: number): GenerateForm {
    const { temperature, top_p, top_k, min_p, repetition_penalty } = request.sampling;
    const form: GenerateForm & { session_id?: string } = {
      do_sample: temperature > 0 ? 1 : 0, temperature, repetition_penalty, max_new_tokens: size, seed: request.seed + at,
    };
    if (this.session) form.session_id = this.session;
    if (inputs) form.inputs = inputs;
    if (request.stop) form.stop_sequence = request.stop;
    // The plain API takes one of the two.
    if (top_p !== null && top_p < 1) form.top_p = top_p;
    else if (top_k !== null) form.top_k = top_k;
    if (min_p !== null) form.min_p = min_p;
    return form;
  }

  /** Opens a session where there is none. Where none is to be had, a chat goes on without; a raw text needs one. */
  private async enter(model: string | null, room: number, needed = false): Promise<void> {
    if (this.session && this.owner !== String(model)) this.leave();
    if (this.session) return;
    try {
      this.session = await this.server.openSession(model, room);
      this.owner = String(model);
    } catch (error) {
      if (needed || !(error instanceof ApiError) || !["too_many_sessions", "no_session"].includes(error.code)) throw error;
    }
  }

  private forget(): void {
    this.session = null;
    this.held = "";
  }

  /** Waits until another attempt is due; `true` where a person stopped meanwhile. Throws what cannot be healed. */
  private async heal(error: unknown, healing: Healing, signal: AbortSignal, on: Listener, so: Written): Promise<boolean> {
    if (error instanceof ApiError && error.code === "session_gone") this.forget();
    const wait = healing.wait(error);
    if (wait === null) throw new Broken(error, so.text, so.route);
    if (wait > 0) on.healing();
    return this.pause(wait, signal).then(
      () => false,
      () => true,
    );
  }
}

/** How often what was tried, and how long to wait before the next time. */
class Healing {
  private lost = 0;
  private gone = 0;
  private full = 0;

  /** Something came: the next trouble is a new one. */
  better(): void {
    this.lost = 0;
    this.full = 0;
  }

  wait(error: unknown): number | null {
    if (!(error instanceof ApiError)) return null;
    if (error.code === "session_gone") return ++this.gone <= 2 ? 0 : null;
    // After a restart a server loads its models first.
    const lost = ["unreachable", "cut", "http_502", "http_503", "http_504"].includes(error.code);
    if (lost || (this.lost > 0 && error.code === "unavailable")) return PAUSES[this.lost++] ?? null;
    if (FULL.includes(error.code) && error.retryAfter <= FULL_WAIT && this.full++ < FULL_TRIES) {
      return Math.max(error.retryAfter, 1) * 1000;
    }
    return null;
  }
}

/** The counts of a reply of which `carried` tokens were written before, and read again. */
function counted(usage: ChatUsage | null, carried: number): ChatUsage | null {
  return usage && { ...usage, prompt_tokens: usage.prompt_tokens - carried, completion_tokens: usage.completion_tokens + carried };
}

/** `text` up to where it ends, if it does. */
export function cutAt(text: string, stop: string): { shown: string; ended: boolean } {
  const at = stop ? text.trimStart().indexOf(stop) : -1;
  if (at >= 0) return { shown: text.slice(0, text.length - text.trimStart().length + at), ended: true };
  const shown = text.replace(END, "");
  return { shown, ended: shown !== text };
}

/** Waits, or rejects once `signal` is aborted. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}
