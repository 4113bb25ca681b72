// Uses the API through a client whose types were generated from openapi.yaml: client.js BASE KEY
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/corolla.js";

declare const process: { argv: string[] };

const [base = "", key = ""] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: base, headers: { Authorization: `Bearer ${key}` } });

function check(fine: unknown, what: string): asserts fine {
  if (!fine) throw new Error(what);
}

const models = await client.GET("/api/v1/models");
check(models.data, JSON.stringify(models.error));
const model: components["schemas"]["ModelInfo"] | undefined = models.data.models[0];
check(model && model.state === "ready" && (model.blocks ?? 0) > 0, JSON.stringify(models.data));

const opened = await client.GET("/api/v1/open_inference_session", { params: { query: { max_length: 64 } } });
check(opened.data?.ok && opened.data.session_id, JSON.stringify(opened));
const session: string = opened.data.session_id;

const text = await client.POST("/api/v1/generate", {
  params: { query: { session_id: session } },
  body: { inputs: "The capital of France is", max_new_tokens: 4 },
});
check(text.data?.ok && text.data.outputs?.includes("Paris"), JSON.stringify(text));
await client.GET("/api/v1/close_inference_session", { params: { query: { session_id: session } } });

const chat = await client.POST("/v1/chat/completions", {
  body: { messages: [{ role: "user", content: "Who wrote Hamlet?" }], max_tokens: 24, temperature: 0 },
});
check(chat.data && !Array.isArray(chat.data) && "choices" in chat.data, JSON.stringify(chat));
check(chat.data.choices[0]?.message.content?.includes("Shakespeare"), JSON.stringify(chat.data));
check(chat.data.usage.completion_tokens > 0, JSON.stringify(chat.data.usage));

const wrong = await client.POST("/v1/chat/completions", { body: { model: "nobody", messages: [{ role: "user", content: "?" }] } });
const fault: components["schemas"]["ChatError"] | undefined = wrong.error;
check(wrong.response.status === 404 && fault?.error.code === "model_not_found", JSON.stringify(wrong));

const stranger = createClient<paths>({ baseUrl: base });
const refused = await stranger.GET("/api/v1/models");
check(refused.response.status === 401 && refused.error?.code === "missing_api_key", JSON.stringify(refused));

const ready = await client.GET("/health/ready");
check(ready.data?.models[0]?.missing_blocks.length === 0, JSON.stringify(ready));
console.log("typescript: models, a session, a text, a chat, errors");
