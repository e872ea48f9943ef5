// What the page asks of the server: lists, readiness, speech. Addresses are relative, so that a path prefix works.

const api = (path) => new URL(path, document.baseURI).href;

/** The API's base address, as client libraries want it. */
export const baseUrl = () => api("v1");

/** An answer that is not a success: the envelope's message, and what tells how to go on. */
export class ServerError extends Error {
  constructor(status, message, requestId, retryAfter) {
    super(message);
    this.status = status;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** The state of the engine: {state: "ready" | "loading" | ..., stage, done, model}, or {state: "unreachable"}. */
export async function readiness() {
  try {
    const answer = await fetch(api("health/ready"), { cache: "no-store" });
    const body = await answer.json();
    return { ...body, state: body.status };
  } catch {
    return { state: "unreachable" };
  }
}

/** {voices: [name], models: [card]}; throws ServerError. */
export async function lists(key) {
  const [voices, models] = await Promise.all([getJson("v1/audio/voices", key), getJson("v1/models", key)]);
  return { voices: voices.voices.map((voice) => voice.id), models: models.data };
}

/** A fetch Response whose body is the audio as it is made; throws ServerError, or AbortError when `signal` says so. */
export async function speech(request, key, signal) {
  const headers = { "content-type": "application/json", ...authorization(key) };
  return checked(await reach("v1/audio/speech", { method: "POST", headers, body: JSON.stringify(request), signal }));
}

async function getJson(path, key) {
  const answer = await checked(await reach(path, { headers: authorization(key) }));
  return answer.json();
}

async function reach(path, options) {
  try {
    return await fetch(api(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${answer.status} ${answer.statusText}.`;
  throw new ServerError(
    answer.status,
    message,
    answer.headers.get("x-request-id"),
    Number(answer.headers.get("retry-after")) || null,
  );
}

const authorization = (key) => (key ? { authorization: `Bearer ${key}` } : {});
