// The server, as any stranger sees it. Addresses are relative, so the page also works below a path prefix.

/** A failure with the server's stable code, or one of ours: `unreachable`, `cut`. */
export class ApiError extends Error {
  constructor(code, message, retryAfter = 0) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

async function reach(address, options) {
  try {
    return await fetch(new URL(address, document.baseURI), { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("unreachable", "The server cannot be reached.");
  }
}

/** Models and the bounds on sessions. */
export async function models() {
  const response = await reach("api/v1/models");
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** Opens a session and returns its name. */
export async function openSession(model, maxLength) {
  const query = new URLSearchParams();
  if (model) query.set("model", model);
  if (maxLength) query.set("max_length", String(maxLength));
  const response = await reach(`api/v1/open_inference_session?${query}`);
  if (!response.ok) throw await failure(response);
  const answer = await response.json();
  if (!answer.ok) {
    const full = /Too many opened/.test(answer.traceback);
    throw new ApiError(full ? "too_many_sessions" : "no_session", answer.traceback);
  }
  return answer.session_id;
}

/** Closes a session; also while the page is going away. */
export function closeSession(id) {
  const address = new URL(`api/v1/close_inference_session?session_id=${encodeURIComponent(id)}`, document.baseURI);
  fetch(address, { keepalive: true, cache: "no-store" }).catch(() => {});
}

/**
 * Asks for the next message of a chat. Yields `{ text }` as it is written, then `{ finish, usage, route }`.
 * Ending the loop or aborting `signal` closes the connection, which stops the compute.
 */
export async function* chat(request, signal) {
  const response = await reach("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.ok) throw await failure(response);
  let finish = null;
  let usage = null;
  let route = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      yield { finish, usage, route };
      return;
    }
    const piece = JSON.parse(data);
    if (piece.error) throw new ApiError(piece.error.code, piece.error.message);
    usage = piece.usage ?? usage;
    route = piece.route ?? route;
    const choice = piece.choices?.[0];
    finish = choice?.finish_reason ?? finish;
    if (choice?.delta?.content) yield { text: choice.delta.content };
  }
  throw new ApiError("cut", "The connection broke off.");
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError("cut", "The connection broke off.");
      });
      if (done) return;
      buffer += value;
      const whole = buffer.split(/\r?\n\r?\n/);
      buffer = whole.pop();
      for (const event of whole) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function failure(response) {
  const wait = Number(response.headers.get("retry-after")) || 0;
  const body = await response.json().catch(() => ({}));
  const error = body.error ?? body;
  return new ApiError(error.code ?? `http_${response.status}`, error.message ?? `The server answered ${response.status}.`, wait);
}
