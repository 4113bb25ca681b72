// The server, as any stranger sees it. Addresses are relative, so the page also works below a path prefix.

import { events } from "./events";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type ModelList = Schemas["ModelList"];
export type ModelInfo = Schemas["ModelInfo"];
export type ModelSwarm = Schemas["ModelSwarm"];
export type SwarmServer = Schemas["SwarmServer"];
export type RouteHop = Schemas["RouteHop"];
export type ReplyRoute = Schemas["ReplyRoute"];
export type ChatUsage = Schemas["ChatUsage"];
export type ChatRequest = Schemas["ChatRequest"];
export type GenerateForm = Schemas["GenerateForm"];

/** A failure with the server's stable code, or one of ours: `unreachable`, `cut`, `no_session`. */
export class ApiError extends Error {
  constructor(
    readonly code: string,
    message: string,
    /** Seconds after which to try again; 0 where the server does not say. */
    readonly retryAfter = 0,
  ) {
    super(message);
  }
}

/** A piece of a streamed reply: more text, with the route where there is news of it, or how it ended. */
export type Piece = { text: string; route?: ReplyRoute | null } | { finish: string | null; usage: ChatUsage | null; route: ReplyRoute | null };

/** One step of a raw text. */
export interface Step {
  text: string;
  tokens: number;
  route: ReplyRoute | null;
  /** Whether the session has no room for more. */
  full: boolean;
}

/** What the page asks of a server; a trait for the tests. */
export interface Server {
  models(): Promise<ModelList>;
  swarm(): Promise<ModelSwarm[]>;
  openSession(model: string | null, length: number): Promise<string>;
  closeSession(id: string): void;
  chat(request: ChatRequest, signal: AbortSignal): AsyncIterable<Piece>;
  step(form: GenerateForm, signal: AbortSignal): Promise<Step>;
}

/** The server that this page came from. `key` gives the API key, where there is one. */
export class HttpServer implements Server {
  constructor(private readonly key: () => string) {}

  async models(): Promise<ModelList> {
    return (await this.fine("api/v1/models")).json();
  }

  async swarm(): Promise<ModelSwarm[]> {
    return ((await (await this.fine("api/v1/swarm")).json()) as Schemas["Swarms"]).models;
  }

  async openSession(model: string | null, length: number): Promise<string> {
    const query = new URLSearchParams({ max_length: String(length) });
    if (model) query.set("model", model);
    const response = await this.fine(`api/v1/open_inference_session?${query}`);
    const answer = (await response.json()) as Schemas["SessionAnswer"];
    if (answer.ok && answer.session_id) return answer.session_id;
    throw v1Error(answer.traceback ?? "", "no_session");
  }

  /** Also while the page is going away. */
  closeSession(id: string): void {
    const query = new URLSearchParams({ session_id: id });
    this.reach(`api/v1/close_inference_session?${query}`, { keepalive: true }).catch(() => undefined);
  }

  /** Leaving the loop or aborting `signal` closes the connection, which stops the compute. */
  async *chat(request: ChatRequest, signal: AbortSignal): AsyncGenerator<Piece> {
    const body = { ...request, stream: true, stream_options: { include_usage: true } };
    const response = await this.fine("v1/chat/completions", { ...json(body), signal }, "text/event-stream");
    if (!response.body) throw cut();
    let finish: string | null = null;
    let usage: ChatUsage | null = null;
    let route: ReplyRoute | null = null;
    for await (const data of events(response.body, cut)) {
      if (data === "[DONE]") {
        yield { finish, usage, route };
        return;
      }
      const piece = JSON.parse(data) as Partial<Schemas["ChatChunk"] & Schemas["ChatError"]>;
      if (piece.error) throw new ApiError(piece.error.code ?? "failed", piece.error.message);
      usage = piece.usage ?? usage;
      route = piece.route ?? route;
      const choice = piece.choices?.[0];
      finish = choice?.finish_reason ?? finish;
      if (choice?.delta.content) yield { text: choice.delta.content, route: piece.route };
    }
    throw cut();
  }

  async step(form: GenerateForm, signal: AbortSignal): Promise<Step> {
    const response = await this.fine("api/v1/generate", { ...json(form), signal });
    const answer = (await response.json()) as Schemas["GenerateAnswer"];
    const tokens = Number(/(\d+) tokens?"/.exec(response.headers.get("server-timing") ?? "")?.[1] ?? form.max_new_tokens);
    const step = { text: answer.outputs ?? "", tokens, route: answer.route ?? null, full: false };
    if (answer.ok) return step;
    const error = v1Error(answer.traceback ?? "", "failed");
    // A session that is full still gives what it wrote last.
    if (error.code === "context_length_exceeded" && step.text) return { ...step, full: true };
    throw error;
  }

  private async fine(address: string, options: RequestInit = {}, accept = "application/json"): Promise<Response> {
    const response = await this.reach(address, options, accept);
    if (response.ok) return response;
    const wait = Number(response.headers.get("retry-after")) || 0;
    const body = (await response.json().catch(() => ({}))) as Partial<Schemas["ChatError"] & Schemas["Error"]>;
    const code = body.error?.code ?? body.code ?? `http_${response.status}`;
    throw new ApiError(code, body.error?.message ?? body.message ?? `the server answered ${response.status}`, wait);
  }

  private async reach(address: string, options: RequestInit, accept = "application/json"): Promise<Response> {
    const headers = new Headers(options.headers);
    headers.set("Accept", accept);
    if (this.key()) headers.set("Authorization", `Bearer ${this.key()}`);
    try {
      return await fetch(new URL(address, document.baseURI), { cache: "no-store", ...options, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError("unreachable", "the server cannot be reached");
    }
  }
}

function json(body: unknown): RequestInit {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

function cut(): ApiError {
  return new ApiError("cut", "the connection broke off");
}

/** The plain API tells its failures as `ErrorType: sentence`; these are the ones that the page acts on. */
export function v1Error(traceback: string, otherwise: string): ApiError {
  const kinds: [RegExp, string][] = [
    [/Session .+ expired/, "session_gone"],
    [/Too many opened/, "too_many_sessions"],
    [/Maximum length exceeded|less than prefix size/, "context_length_exceeded"],
    [/server is busy/, "busy"],
  ];
  const code = kinds.find(([pattern]) => pattern.test(traceback))?.[1] ?? otherwise;
  return new ApiError(code, traceback.trim().split("\n").at(-1)?.replace(/^\w+: /, "") ?? "");
}
