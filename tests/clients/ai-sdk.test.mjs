// SPDX-License-Identifier: GPL-3.0-or-later
// The Vercel AI SDK, with both of its providers for OpenAI's API, against the queen at RBEE_URL.
// What stands between `docs:` lines is in docs/openai.md too, word for word.
import assert from "node:assert/strict";
import { test } from "node:test";
// docs: ai-sdk
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, streamText } from "ai";

const rbee = createOpenAICompatible({ name: "rbee", baseURL: process.env.RBEE_URL });
const prompt = "What is rbee?";
// docs: end
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, embed, generateObject, stepCountIs, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ baseURL: process.env.RBEE_URL, apiKey: "none" });
const SAID = /^rbee is a tool that runs language models/;
const ways = [
  ["openai-compatible", (name) => rbee(name)],
  ["openai, chat", (name) => openai.chat(name)],
  ["openai, responses", (name) => openai.responses(name)],
];

for (const [way, of] of ways) {
  test(`${way}: an answer, whole and streamed`, async () => {
    const { text, usage, finishReason } = await generateText({ model: of("bee-tiny"), prompt, temperature: 0 });
    assert.match(text, SAID);
    assert.equal(finishReason, "stop");
    assert.ok(usage.outputTokens > 0);
    const result = streamText({ model: of("bee-tiny"), prompt, temperature: 0 });
    let streamed = "";
    for await (const piece of result.textStream) streamed += piece;
    assert.equal(streamed, text);
  });
}

test("as the guide has it", async () => {
  // docs: ai-sdk
  const { text } = await generateText({ model: rbee("bee-tiny"), prompt, temperature: 0 });

  let streamed = "";
  for await (const piece of streamText({ model: rbee("bee-tiny"), prompt, temperature: 0 }).textStream) {
    streamed += piece;
  }

  const { embeddings } = await embedMany({
    model: rbee.embeddingModel("bee-vectors"),
    values: ["a bee", "a flower"],
  });
  // docs: end
  assert.equal(streamed, text);
  assert.deepEqual(embeddings.map((e) => e.length), [192, 192]);
});

test("one embedding by the other provider", async () => {
  const { embedding, usage } = await embed({ model: openai.embeddingModel("bee-vectors"), value: "a bee" });
  assert.equal(embedding.length, 192);
  assert.ok(usage.tokens > 0);
});

test("an object by a schema", async () => {
  const strict = createOpenAICompatible({
    name: "rbee",
    baseURL: process.env.RBEE_URL,
    supportsStructuredOutputs: true,
  });
  const schema = z.object({ colour: z.enum(["red", "blue"]) });
  for (const model of [strict("bee-tiny"), openai.chat("bee-tiny")]) {
    const { object } = await generateObject({ model, schema, prompt, temperature: 0, maxOutputTokens: 300 });
    assert.match(object.colour, /^(red|blue)$/);
  }
});

test("a tool is called and its result goes back", async () => {
  const asked = [];
  const weather = tool({
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      asked.push(city);
      return "rain";
    },
  });
  for (const model of [rbee("mock-tools"), openai.chat("mock-tools")]) {
    const result = streamText({ model, prompt, tools: { weather }, stopWhen: stepCountIs(1) });
    await result.consumeStream();
    const [call] = await result.toolCalls;
    assert.deepEqual([call.toolName, call.input], ["weather", { city: "Köln" }]);
  }
  assert.deepEqual(asked, ["Köln", "Köln"]);
});

test("errors", async () => {
  const refused = (model) => generateText({ model: rbee(model), prompt, maxRetries: 0 });
  await assert.rejects(refused("nothing"), (e) => APICallError.isInstance(e) && e.statusCode === 404 && !e.isRetryable);
  await assert.rejects(refused("idle"), (e) => APICallError.isInstance(e) && e.statusCode === 503 && e.isRetryable);
});
