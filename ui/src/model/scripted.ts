// For the tests: a server that plays a script.

import type { ChatRequest, GenerateForm, Piece, Server, Step } from "../api/client";

export const END: Piece = { finish: "stop", usage: null, route: null };

/** For each request the pieces it sends, then perhaps what goes wrong. */
export class Scripted implements Server {
  readonly asked: ChatRequest[] = [];
  readonly forms: GenerateForm[] = [];
  readonly closed: string[] = [];
  opened = 0;

  constructor(
    private readonly chats: (Piece | string | Error)[][],
    private readonly steps: (Step | Error)[] = [],
    private readonly doors: Error[] = [],
  ) {}

  models = () => Promise.reject(new Error("not asked for"));
  swarm = () => Promise.reject(new Error("not asked for"));

  openSession() {
    const shut = this.doors.shift();
    return shut ? Promise.reject(shut) : Promise.resolve(`s${++this.opened}`);
  }

  closeSession(id: string) {
    this.closed.push(id);
  }

  async *chat(request: ChatRequest, signal: AbortSignal) {
    this.asked.push(request);
    for (const piece of this.chats.shift() ?? []) {
      await new Promise((resolve) => setTimeout(resolve));
      signal.throwIfAborted();
      if (piece instanceof Error) throw piece;
      yield typeof piece === "string" ? { text: piece } : piece;
    }
  }

  step(form: GenerateForm) {
    this.forms.push({ ...form });
    const step = this.steps.shift() ?? new Error("no more steps");
    return step instanceof Error ? Promise.reject(step) : Promise.resolve(step);
  }
}
