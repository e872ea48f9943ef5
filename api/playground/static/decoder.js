// Bytes of one audio format in, samples (mono float, 24 kHz) out, while the file is still arriving.

import { Growing, SAMPLE_RATE } from "./samples.js";

const WAV_HEADER = 44;
const HELD_BACK = 0.02 * SAMPLE_RATE;
const ENOUGH_AHEAD = 3;
const GROWTH = 1.5;
const POKE_MS = 100;

/**
 * A decoder for `format`. `onSamples(Float32Array)` gets new samples, in order; `ahead()` tells how many seconds
 * of sound still wait to be played. Both kinds have push(bytes), async finish(), close().
 */
export function decoderFor(format, context, onSamples, ahead) {
  if (format === "pcm") return new PcmDecoder(0, onSamples);
  if (format === "wav") return new PcmDecoder(WAV_HEADER, onSamples);
  return new PrefixDecoder(context, onSamples, ahead);
}

/** 16-bit little-endian samples after `header` bytes that are skipped. */
class PcmDecoder {
  constructor(header, onSamples) {
    this.toSkip = header;
    this.onSamples = onSamples;
    this.rest = new Uint8Array(0);
  }

  push(bytes) {
    const skipped = Math.min(this.toSkip, bytes.length);
    this.toSkip -= skipped;
    const joined = new Uint8Array(this.rest.length + bytes.length - skipped);
    joined.set(this.rest);
    joined.set(bytes.subarray(skipped), this.rest.length);
    const count = joined.length >> 1;
    this.rest = joined.slice(count * 2);
    if (count) this.onSamples(floats(new DataView(joined.buffer), count));
  }

  async finish() {}

  close() {}
}

function floats(view, count) {
  const samples = new Float32Array(count);
  for (let i = 0; i < count; i++) samples[i] = view.getInt16(i * 2, true) / 32768;
  return samples;
}

/**
 * Any format the browser decodes: what has arrived is decoded from its start, and what is new goes on.
 *
 * A prefix of such a file decodes to a prefix of its samples, but for a few at its end, which are held back. To decode
 * everything again is cheap (a minute of speech takes some hundred milliseconds) and is done only when the sound runs
 * low or the file has grown by half.
 */
class PrefixDecoder {
  constructor(context, onSamples, ahead) {
    this.context = context;
    this.onSamples = onSamples;
    this.ahead = ahead;
    this.bytes = new Growing(Uint8Array);
    this.decoded = 0;
    this.given = 0;
    this.running = null;
    this.timer = setInterval(() => this.poke(), POKE_MS);
  }

  push(bytes) {
    this.bytes.append(bytes);
    this.poke();
  }

  poke() {
    if (this.running || !this.due()) return;
    this.running = this.decode(HELD_BACK)
      .catch(() => {}) // Too short to hold a whole frame yet; finish() reports what can never be decoded.
      .finally(() => {
        this.running = null;
      });
  }

  due() {
    const size = this.bytes.length;
    return size > this.decoded && (this.ahead() < ENOUGH_AHEAD || size > this.decoded * GROWTH);
  }

  async decode(heldBack) {
    const size = this.bytes.length;
    this.decoded = size;
    // decodeAudioData takes the buffer away, so it gets a copy.
    const audio = await this.context.decodeAudioData(this.bytes.view(0, size).slice().buffer);
    const until = audio.length - heldBack;
    if (this.closed || until <= this.given) return;
    const samples = audio.getChannelData(0).slice(this.given, until);
    this.given = until;
    this.onSamples(samples);
  }

  /** Hand over the rest; throws when the browser does not know the format. */
  async finish() {
    clearInterval(this.timer);
    await this.running;
    await this.decode(0);
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
  }
}
