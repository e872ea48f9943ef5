// One request from asking to its last sample: the bytes go to the decoder as they come, the samples to the player.
//
// performance marks (lyre:asked, lyre:first-byte, lyre:playing, lyre:last-byte) tell when what happened.

import { decoderFor } from "./decoder.js";
import { Player } from "./player.js";
import { Growing, SAMPLE_RATE } from "./samples.js";
import { ServerError, speech } from "./server.js";

const AUDIBLE = 0.01;
const MARKS = ["asked", "first-byte", "playing", "last-byte"].map((name) => `lyre:${name}`);

export class Utterance {
  /** `request` is the body that will be sent; `context` an AudioContext of the speech's own rate. */
  constructor(request, context) {
    this.request = request;
    this.context = context;
    this.player = new Player(context);
    this.decoder = decoderFor(request.response_format, context, (samples) => this.hear(samples), () => this.player.ahead());
    this.bytes = new Growing(Uint8Array);
    this.leaving = new AbortController();
    this.phase = "asking";
    this.times = {};
    this.audibleMs = null;
    this.isReplayed = false;
    for (const name of MARKS) performance.clearMarks(name);
  }

  /** Ask and receive until the end. Throws ServerError or AbortError; what came until then stays playable. */
  async run(key) {
    this.mark("asked");
    try {
      const answer = await speech(this.request, key, this.leaving.signal);
      this.requestId = answer.headers.get("x-request-id");
      this.mediaType = answer.headers.get("content-type");
      await this.receive(answer.body.getReader());
      this.phase = "received";
      await this.decoder.finish().catch(() => this.refuse());
    } catch (error) {
      if (this.phase !== "received") this.phase = "failed";
      throw error;
    } finally {
      this.decoder.close();
      this.player.end();
    }
  }

  /** Break off: no more bytes, no more sound. */
  stop() {
    this.leaving.abort();
    this.player.stop();
  }

  /** Keep the player fed and note the first sound. To be called several times a second. */
  tick() {
    this.player.tick();
    if (!this.times.playing && this.player.state() === "playing") this.mark("playing");
    if (this.audibleMs === null && this.times.playing) this.audibleMs = this.measureAudible();
  }

  /** From asking to the first byte of audio, in milliseconds; null before it. */
  get ttfaMs() {
    return this.times["first-byte"] ? this.times["first-byte"] - this.times.asked : null;
  }

  /** Seconds of speech so far. */
  get seconds() {
    return this.player.samples.length / SAMPLE_RATE;
  }

  /** Time taken for a second of speech; null before there is any. */
  get realTimeFactor() {
    if (!this.seconds) return null;
    return ((this.times["last-byte"] ?? performance.now()) - this.times.asked) / 1000 / this.seconds;
  }

  /** The whole file, once it has come whole. */
  get file() {
    return this.phase === "received" ? new Blob([this.bytes.view()], { type: this.mediaType }) : null;
  }

  async receive(reader) {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => this.brokeOff(error));
      if (done) break;
      if (this.phase === "asking") {
        this.mark("first-byte");
        this.phase = "receiving";
      }
      this.bytes.append(value);
      this.decoder.push(value);
    }
    this.mark("last-byte");
  }

  brokeOff(error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(200, "The connection broke off: the speech is not complete.", this.requestId);
  }

  refuse() {
    this.player.stop();
    const format = this.request.response_format;
    throw new ServerError(200, `This browser cannot play ${format}. The file is whole; choose wav to hear it here.`);
  }

  hear(samples) {
    if (this.loud === undefined) {
      const index = samples.findIndex((sample) => Math.abs(sample) > AUDIBLE);
      if (index >= 0) this.loud = this.player.samples.length + index;
    }
    if (!this.leaving.signal.aborted) this.player.add(samples);
  }

  measureAudible() {
    if (this.loud === undefined) return null;
    const at = this.player.firstStart + this.loud / SAMPLE_RATE;
    if (this.context.currentTime < at) return null;
    const leaves = performance.now() + (at - this.context.currentTime + (this.context.outputLatency || 0)) * 1000;
    return leaves - this.times.asked;
  }

  mark(name) {
    this.times[name] = performance.mark(`lyre:${name}`).startTime;
  }
}
