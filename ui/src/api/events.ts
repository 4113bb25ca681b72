// Server-sent events of a response.

/** The longest event that is taken, in characters. */
const LONGEST = 1 << 20;

/** The data of each event. A connection that breaks is the error that `cut` makes. */
export async function* events(body: ReadableStream<Uint8Array>, cut: () => Error): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        if (error instanceof DOMException && error.name === "AbortError") throw error;
        throw cut();
      });
      if (done) return;
      buffer += value;
      if (buffer.length > LONGEST) throw cut();
      const whole = buffer.split(/\r?\n\r?\n/);
      buffer = whole.pop() ?? "";
      for (const event of whole) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
