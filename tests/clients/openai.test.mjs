// SPDX-License-Identifier: GPL-3.0-or-later
// OpenAI's own client for Node.js against the queen at RBEE_URL (tests/integration/test_node_clients.py starts her).
// What stands between `docs:` lines is in docs/openai.md too, word for word.
import assert from "node:assert/strict";
import { test } from "node:test";
// docs: node
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.RBEE_URL, apiKey: "none" });
const messages = [{ role: "user", content: "What is rbee?" }];
// docs: end

const tools = [
  {
    type: "function",
    function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
  },
];

test("an answer, whole and streamed", async () => {
  // docs: node
  const answer = await client.chat.completions.create({ model: "bee-tiny", messages, temperature: 0 });
  const said = answer.choices[0].message.content;

  let streamed = "";
  const stream = await client.chat.completions.create({ model: "bee-tiny", messages, temperature: 0, stream: true });
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
  // docs: end
  assert.match(said, /^rbee is a tool that runs language models/);
  assert.equal(streamed, said);
  assert.ok(answer.usage.completion_tokens > 0);
});

test("who answered", async () => {
  const { data, response, request_id } = await client.chat.completions
    .create({ model: "gpt-4o-mini", messages, max_tokens: 4 }, { headers: { "X-Request-Id": "node-1" } })
    .withResponse();
  assert.deepEqual([data.model, request_id, response.headers.get("x-rbee-worker")], ["gpt-4o-mini", "node-1", "chat-1"]);
});

test("embeddings, which the client asks for in base64", async () => {
  // docs: node
  const vectors = await client.embeddings.create({ model: "bee-vectors", input: ["a bee", "a flower"] });
  // docs: end
  const plain = await client.embeddings.create({
    model: "bee-vectors",
    input: ["a bee", "a flower"],
    encoding_format: "float",
  });
  assert.equal(vectors.data.length, 2);
  assert.equal(vectors.data[1].embedding.length, 192);
  vectors.data[1].embedding.forEach((x, i) => assert.ok(Math.abs(x - plain.data[1].embedding[i]) < 1e-6));
});

test("structured output", async () => {
  const schema = {
    type: "object",
    properties: { colour: { enum: ["red", "blue"] } },
    required: ["colour"],
    additionalProperties: false,
  };
  const answer = await client.chat.completions.parse({
    model: "bee-tiny",
    messages,
    temperature: 0,
    max_tokens: 300,
    response_format: { type: "json_schema", json_schema: { name: "colour", strict: true, schema } },
  });
  assert.match(JSON.parse(answer.choices[0].message.content).colour, /^(red|blue)$/);
});

test("tool calls that are streamed", async () => {
  const runner = client.chat.completions.stream({ model: "mock-tools", messages, tools });
  const final = await runner.finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["weather", { city: "Köln" }]);
});

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("bee-tiny") && names.includes("gpt-4o-mini"));
  assert.equal((await client.models.retrieve("bee-tiny")).rbee.state, "ready");
});

test("errors are the client's own classes", async () => {
  const ask = (more) => client.chat.completions.create({ model: "bee-tiny", messages, ...more }, { maxRetries: 0 });
  await assert.rejects(ask({ model: "nothing" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
  await assert.rejects(ask({ temperature: 9 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
  await assert.rejects(ask({ model: "idle" }), (e) => e instanceof OpenAI.InternalServerError && e.status === 503);
});

test("a stream that is left", async () => {
  const left = await client.chat.completions.create({ model: "bee-tiny", messages, stream: true, ignore_eos: true });
  for await (const _ of left) break;
  const controller = new AbortController();
  const asked = client.chat.completions.create(
    { model: "bee-tiny", messages, ignore_eos: true },
    { signal: controller.signal },
  );
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(asked, OpenAI.APIUserAbortError);
});

test("responses", async () => {
  const answer = await client.responses.create({ model: "bee-tiny", input: "What is rbee?", temperature: 0 });
  assert.match(answer.output_text, /^rbee is a tool/);
});
