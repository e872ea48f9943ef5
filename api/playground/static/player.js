// Plays samples while they come in, gaplessly, and knows which one is heard now.
//
// Scheduled buffers, not an AudioWorklet: worklets exist on secure pages only, and a server in the living room is not one.

import { Growing, SAMPLE_RATE } from "./samples.js";

const LEAD = 0.03;
const FIRST_CUSHION = 0.12;
const LATER_CUSHION = 0.4;

/** One utterance. `complete` says that no more samples will come. */
export class Player {
  constructor(context) {
    this.context = context;
    this.samples = new Growing(Float32Array);
    this.complete = false;
    this.underruns = 0;
    this.firstStart = null;
    this.play(0);
  }

  /** Take new samples; they are heard right after what was there before. */
  add(samples) {
    this.samples.append(samples);
    this.tick();
  }

  /** No more will come. */
  end() {
    this.complete = true;
    this.tick();
  }

  /** Play from a sample on, now. */
  play(from) {
    this.silence();
    this.scheduled = Math.max(0, Math.min(from, this.samples.length));
    this.pieces = [];
    this.until = null;
    this.cushion = FIRST_CUSHION;
    this.active = true;
    this.tick();
  }

  /** Be silent; `position()` stays where it is. */
  stop() {
    this.resting = this.position();
    this.silence();
    this.active = false;
  }

  /** Seconds of sound that are decoded and not heard yet. */
  ahead() {
    return (this.samples.length - this.position()) / SAMPLE_RATE;
  }

  /** The sample that is heard now. */
  position() {
    if (!this.active) return Math.min(this.resting, this.samples.length);
    const now = this.context.currentTime;
    let heard = this.pieces.length ? this.pieces[0].from : this.scheduled;
    for (const piece of this.pieces) {
      if (piece.at > now) break;
      heard = piece.from + Math.min(piece.length, Math.floor((now - piece.at) * SAMPLE_RATE));
    }
    return heard;
  }

  /** "silent", "waiting" (for samples), "playing" or "ended". */
  state() {
    if (!this.active) return "silent";
    const now = this.context.currentTime;
    if (!this.pieces.length || this.context.state !== "running" || now < this.pieces[0].at) return "waiting";
    if (now < this.until) return "playing";
    return this.complete && this.scheduled === this.samples.length ? "ended" : "waiting";
  }

  /** Schedule what is there and notice that the sound ran dry. To be called now and then. */
  tick() {
    if (!this.active) return;
    const now = this.context.currentTime;
    if (this.until !== null && now >= this.until && !this.dry && !(this.complete && this.isAllScheduled())) {
      this.dry = true;
      this.underruns += 1;
      this.cushion = LATER_CUSHION;
    }
    const fresh = this.samples.length - this.scheduled;
    const flows = this.until !== null && !this.dry;
    if (fresh > 0 && (flows || this.complete || fresh >= this.cushion * SAMPLE_RATE)) this.schedule(fresh, now);
  }

  isAllScheduled() {
    return this.scheduled === this.samples.length;
  }

  schedule(length, now) {
    const isJoint = this.until !== null && !this.dry;
    // On a whole sample, so that pieces meet without a gap; the context runs at the speech's own rate.
    const at = isJoint ? this.until : Math.ceil((now + LEAD) * SAMPLE_RATE) / SAMPLE_RATE;
    const buffer = this.context.createBuffer(1, length, SAMPLE_RATE);
    buffer.copyToChannel(this.samples.view(this.scheduled), 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.start(at);
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
    this.pieces.push({ at, from: this.scheduled, length });
    this.scheduled += length;
    this.until = at + length / SAMPLE_RATE;
    this.dry = false;
    this.firstStart ??= at;
  }

  silence() {
    for (const source of this.sources ?? []) source.stop();
    this.sources = new Set();
    this.dry = false;
  }
}
