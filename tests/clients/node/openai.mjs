// The openai package for Node against a server: node openai.mjs SCENARIO ROOT KEY FOLDER. Prints one JSON document.
import { writeFile } from "node:fs/promises";
import { createWriteStream } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import OpenAI from "openai";
import { running, untilRunning } from "./health.mjs";

const [scenario, root, apiKey, folder] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${root}/v1`, apiKey, maxRetries: 0 });
const sentence = process.env.SENTENCE;
const long = process.env.LONG;
const formats = ["mp3", "opus", "aac", "flac", "wav", "pcm"];

function about(response) {
  return { type: response.headers.get("content-type"), id: response.headers.get("x-request-id") };
}

async function failure(asked) {
  try {
    await asked;
  } catch (error) {
    const { name, status, code, param, type, message, requestID } = error;
    return { class: error.constructor.name, name, status, code, param, type, message, requestID };
  }
  return null;
}

const speech = (more, options) =>
  client.audio.speech.create({ model: "tts-1", voice: "alloy", input: sentence, ...more }, options);

const scenarios = {
  async wholeAnswers() {
    const answers = {};
    for (const format of formats) {
      const response = await speech({ response_format: format });
      await writeFile(`${folder}/${format}`, Buffer.from(await response.arrayBuffer()));
      answers[format] = about(response);
    }
    return answers;
  },

  async bodyStream() {
    const response = await speech({ model: "gpt-4o-mini-tts", voice: "ash" });
    await pipeline(Readable.fromWeb(response.body), createWriteStream(`${folder}/streamed`));
    return about(response);
  },

  async firstBytes() {
    const response = await speech({ input: long, response_format: "wav" });
    const reader = response.body.getReader();
    const { value } = await reader.read();
    const still = await running(root);
    await reader.cancel();
    return { bytes: value.length, running: still, id: response.headers.get("x-request-id") };
  },

  async events() {
    const response = await speech({ stream_format: "sse", response_format: "opus" });
    const records = (await response.text()).split("\r\n\r\n").filter(Boolean);
    const last = records.pop();
    const events = records.map((record) => JSON.parse(record.slice("data: ".length)));
    const deltas = events.filter((event) => event.type === "speech.audio.delta");
    await writeFile(`${folder}/events`, Buffer.concat(deltas.map((event) => Buffer.from(event.audio, "base64"))));
    return { ...about(response), last, done: events.at(-1) };
  },

  async errors() {
    return {
      voice: await failure(speech({ voice: "nobody" })),
      input: await failure(speech({ input: "x".repeat(4097) })),
      speed: await failure(speech({ speed: 4.5 })),
      model: await failure(speech({ model: "whisper-1" })),
      retrieve: await failure(client.models.retrieve("someone/else")),
      key: await failure(new OpenAI({ baseURL: `${root}/v1`, apiKey: "wrong" }).audio.speech.create({
        model: "tts-1",
        voice: "alloy",
        input: sentence,
      })),
    };
  },

  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    const retrieved = [];
    for (const id of listed) retrieved.push((await client.models.retrieve(id)).id);
    return { listed, retrieved };
  },

  async abort() {
    const controller = new AbortController();
    const response = await speech({ input: long, response_format: "pcm" }, { signal: controller.signal });
    const reader = response.body.getReader();
    await reader.read();
    const before = await running(root);
    controller.abort();
    const stopped = await failure((async () => {
      while (!(await reader.read()).done);
    })());
    await untilRunning(root, 0);
    const next = await speech();
    await writeFile(`${folder}/next`, Buffer.from(await next.arrayBuffer()));
    return { before, stopped: stopped.name, ...about(next) };
  },

  async abortBeforeTheFirstByte() {
    const controller = new AbortController();
    const asked = failure(speech({ input: long }, { signal: controller.signal }));
    await untilRunning(root, 1);
    controller.abort();
    const stopped = await asked;
    await untilRunning(root, 0);
    return { stopped: stopped?.class ?? null };
  },

  async busy() {
    const statuses = [];
    const response = await speech({ input: long });
    const reader = response.body.getReader();
    await reader.read();
    const watched = new OpenAI({
      baseURL: `${root}/v1`,
      apiKey,
      fetch: async (...asked) => {
        const answer = await fetch(...asked);
        statuses.push([answer.status, answer.headers.get("retry-after")]);
        if (answer.status === 503) await reader.cancel();
        return answer;
      },
    });
    const answer = await watched.audio.speech.create({ model: "tts-1", voice: "alloy", input: sentence });
    await writeFile(`${folder}/answer`, Buffer.from(await answer.arrayBuffer()));
    return { statuses };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
