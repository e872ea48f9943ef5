// A request as a command or a program that anybody can run. A key is never written out: it comes from OPENAI_API_KEY.

/** Code in `language` that sends `request` to `base` and saves what comes back. */
export function snippet(language, request, base, withKey) {
  return { curl, python, javascript }[language](request, base, withKey, `speech.${request.response_format}`);
}

function curl(request, base, withKey, file) {
  const lines = [
    `curl ${base}/audio/speech`,
    ...(withKey ? ['-H "Authorization: Bearer $OPENAI_API_KEY"'] : []),
    '-H "Content-Type: application/json"',
    `-d ${shellQuoted(JSON.stringify(request))}`,
    `-o ${file}`,
  ];
  return lines.join(" \\\n  ");
}

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python(request, base, withKey, file) {
  // JSON's strings and numbers are Python's as well.
  const fields = Object.entries(request).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  const key = withKey ? "" : ', api_key="none"';
  return `from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(base)}${key})
with client.audio.speech.with_streaming_response.create(
${fields.join("\n")}
) as response:
    response.stream_to_file("${file}")`;
}

function javascript(request, base, withKey, file) {
  const fields = Object.entries(request).map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`);
  const key = withKey ? "" : ', apiKey: "none"';
  return `import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}${key} });
const speech = await client.audio.speech.create({
${fields.join("\n")}
});
await pipeline(speech.body, createWriteStream("${file}"));`;
}
