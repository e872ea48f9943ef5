// The Vercel AI SDK against a server: node ai_sdk.mjs SCENARIO ROOT KEY FOLDER. Prints one JSON document.
import { writeFile } from "node:fs/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { generateSpeech } from "ai";
import { untilRunning } from "./health.mjs";

const [scenario, root, apiKey, folder] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${root}/v1`, apiKey });
const text = process.env.SENTENCE;
const formats = ["mp3", "opus", "aac", "flac", "wav", "pcm"];

async function spoken(name, options, model = "tts-1") {
  const { audio, warnings, responses } = await generateSpeech({ model: openai.speech(model), text, ...options });
  await writeFile(`${folder}/${name}`, audio.uint8Array);
  return { mediaType: audio.mediaType, warnings, id: responses[0].headers["x-request-id"] };
}

async function failure(options, model = "tts-1", provider = openai) {
  try {
    await generateSpeech({ model: provider.speech(model), text, maxRetries: 0, ...options });
  } catch (error) {
    return { name: error.name, message: error.message, status: error.statusCode, retryable: error.isRetryable };
  }
  return null;
}

const scenarios = {
  async defaults() {
    return spoken("audio", {}, "gpt-4o-mini-tts");
  },

  async formats() {
    const answers = {};
    for (const outputFormat of formats) answers[outputFormat] = await spoken(outputFormat, { outputFormat });
    return answers;
  },

  async options() {
    return spoken("audio", { voice: "verse", speed: 1, instructions: "Speak slowly.", outputFormat: "wav" });
  },

  async errors() {
    return {
      voice: await failure({ voice: "nobody" }),
      model: await failure({}, "whisper-1"),
      key: await failure({}, "tts-1", createOpenAI({ baseURL: `${root}/v1`, apiKey: "wrong" })),
    };
  },

  async abort() {
    const controller = new AbortController();
    const asked = failure({ text: process.env.LONG, abortSignal: controller.signal });
    await untilRunning(root, 1);
    controller.abort();
    const stopped = await asked;
    await untilRunning(root, 0);
    return { stopped: stopped.name, ...(await spoken("next", {})) };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
