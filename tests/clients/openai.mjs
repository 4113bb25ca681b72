// OpenAI's client for Node, unmodified, against a running server: node openai.mjs URL
import assert from "node:assert/strict";
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const model = "smollm2-135m-instruct";

/** How many replies ended because their client left. */
const brokenOff = async () => {
    const text = await (await fetch(`${url}/metrics`)).text();
    return Number(text.match(/^corolla_turns_ended_total\{.*how="broken_off"\} (\d+)$/m)?.[1] ?? 0);
};

const tests = {
    async "a chat in one piece"() {
        const reply = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 200 });
        assert.match(reply.choices[0].message.content, /Paris/);
        assert.equal(reply.choices[0].finish_reason, "stop");
        assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
    },

    async "a chat in pieces, with counts"() {
        const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 30 });
        const options = { stream: true, stream_options: { include_usage: true } };
        const stream = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 30, ...options });
        let text = "";
        let usage;
        let pieces = 0;
        for await (const piece of stream) {
            text += piece.choices[0]?.delta.content ?? "";
            usage = piece.usage ?? usage;
            pieces += 1;
        }
        assert.equal(text, whole.choices[0].message.content);
        assert.deepEqual(usage.completion_tokens, whole.usage.completion_tokens);
        assert(pieces > 3);
    },

    async "the client's own collector of streams"() {
        const stream = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 30 });
        assert.match(await stream.finalContent(), /Paris/);
    },

    async "several replies and log-probabilities"() {
        const reply = await client.chat.completions.create({
            model, messages, n: 2, seed: 3, max_completion_tokens: 6, logprobs: true, top_logprobs: 2,
        });
        assert.deepEqual(reply.choices.map((choice) => choice.index), [0, 1]);
        for (const { logprobs } of reply.choices) {
            assert(logprobs.content.length > 0);
            for (const row of logprobs.content) {
                assert(row.logprob <= 0 && row.top_logprobs.length === 2);
                assert.equal(Buffer.from(row.bytes).toString(), row.token);
            }
        }
    },

    async "JSON of a schema"() {
        const schema = {
            type: "object", required: ["city", "people"], additionalProperties: false,
            properties: { city: { enum: ["Paris", "Rome"] }, people: { type: "integer", minimum: 0, maximum: 99999999 } },
        };
        const reply = await client.chat.completions.create({
            model, messages, temperature: 0, response_format: { type: "json_schema", json_schema: { name: "place", schema, strict: true } },
        });
        const place = JSON.parse(reply.choices[0].message.content);
        assert(["Paris", "Rome"].includes(place.city) && Number.isInteger(place.people));
    },

    async "a call of a named tool, and the client's collector of streams"() {
        const parameters = {
            type: "object", required: ["city"], additionalProperties: false,
            properties: { city: { enum: ["Paris", "Rome"] } },
        };
        const tools = [{ type: "function", function: { name: "get_weather", description: "The weather in a city.", parameters } }];
        const request = { model, messages, tools, temperature: 0, max_tokens: 200 };
        const named = { ...request, tool_choice: { type: "function", function: { name: "get_weather" } } };
        const [choice] = (await client.chat.completions.create(named)).choices;
        assert.equal(choice.finish_reason, "tool_calls");
        assert.equal(choice.message.content, null);
        const [call] = choice.message.tool_calls;
        assert.match(call.id, /^call_/);
        assert(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city));
        const stream = client.chat.completions.stream({ ...request, tool_choice: "required", parallel_tool_calls: false });
        const told = await stream.finalMessage();
        assert.deepEqual(told.tool_calls.map((it) => it.function.name), ["get_weather"]);
        const back = { role: "tool", tool_call_id: told.tool_calls[0].id, content: "sunny" };
        const last = await client.chat.completions.create({ ...request, messages: [...messages, told, back], tool_choice: "none" });
        assert(last.choices[0].message.content.length > 0);
    },

    async "completions"() {
        const reply = await client.completions.create({
            model, prompt: ["The capital of France is", "Two plus two is"], max_tokens: 5, temperature: 0, echo: true, logprobs: 1,
        });
        assert.match(reply.choices[0].text, /^The capital of France is Paris/);
        assert.equal(reply.choices.length, 2);
        const { tokens, token_logprobs: logprobs } = reply.choices[0].logprobs;
        assert.equal(tokens.join(""), reply.choices[0].text);
        assert.equal(logprobs.length, tokens.length);
        let text = "";
        const stream = await client.completions.create({
            model, prompt: "The capital of France is", max_tokens: 5, temperature: 0, stream: true,
        });
        for await (const piece of stream) text += piece.choices[0].text;
        assert.equal(`The capital of France is${text}`, reply.choices[0].text);
    },

    async "models"() {
        const ids = [];
        for await (const card of client.models.list()) ids.push(card.id);
        assert.deepEqual(ids, [model]);
        assert.equal((await client.models.retrieve(model)).id, model);
        await assert.rejects(client.models.retrieve("org/other"), OpenAI.NotFoundError);
    },

    async "embeddings, which this client asks for in base64"() {
        const reply = await client.embeddings.create({ model, input: ["A cat", "A dog"] });
        const plain = await client.embeddings.create({ model, input: ["A cat", "A dog"], encoding_format: "float" });
        assert.equal(reply.data.length, 2);
        for (const [at, row] of reply.data.entries()) {
            assert.equal(row.embedding.length, 576);
            row.embedding.forEach((value, nth) => assert(Math.abs(value - plain.data[at].embedding[nth]) < 1e-6));
        }
    },

    async "errors"() {
        const chat = (more) => client.chat.completions.create({ model, messages, ...more });
        await assert.rejects(chat({ model: "gpt-9" }), (error) => {
            assert(error instanceof OpenAI.NotFoundError);
            assert.equal(error.code, "model_not_found");
            return true;
        });
        await assert.rejects(chat({ temperature: "hot" }), (error) => {
            assert(error instanceof OpenAI.BadRequestError);
            assert.equal(error.param, "temperature");
            return true;
        });
        await assert.rejects(chat({ logit_bias: { 9999999: 1 } }), OpenAI.BadRequestError);
    },

    async "an abort stops the compute"() {
        const long = [{ role: "user", content: "Tell me a very long story about a garden." }];
        const before = await brokenOff();
        const stream = await client.chat.completions.create({ model, messages: long, max_tokens: 2000, stream: true });
        for await (const piece of stream) {
            if (piece.choices[0]?.delta.content) break;
        }
        stream.controller.abort();
        const begun = Date.now();
        while ((await brokenOff()) === before) assert(Date.now() - begun < 60_000, "it went on to its end");
    },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
    try {
        await test();
        console.log(`ok      node: ${name}`);
    } catch (error) {
        failed += 1;
        console.log(`FAILED  node: ${name}`);
        console.error(error);
    }
}
process.exit(failed ? 1 : 0);
