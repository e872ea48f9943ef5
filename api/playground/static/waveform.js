// Draws speech that grows: heard, received, and still to come, as rounded bars on a canvas.

import { SAMPLE_RATE } from "./samples.js";

const BIN = 240;
const BAR = 3;
const GAP = 2;
const EASE = 0.16;

/** The drawing of one canvas; colours come from its CSS custom properties. */
export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.reduced = matchMedia("(prefers-reduced-motion: reduce)");
    this.clear(0);
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Start anew; the width stands for `expected` seconds until more than that has come. */
  clear(expected) {
    this.peaks = [];
    this.binned = 0;
    this.length = 0;
    this.position = 0;
    this.shown = this.target = Math.max(expected, 0.5);
    this.loudest = 0.1;
    this.draw();
  }

  /** Show `samples` (all so far), heard up to `position`; the width fits exactly once `complete`. */
  update(samples, position, complete) {
    this.measure(samples, complete);
    this.length = samples.length;
    this.position = position;
    const seconds = samples.length / SAMPLE_RATE;
    if (complete && seconds) this.target = seconds;
    else if (seconds > this.target * 0.92) this.target = seconds * 1.25;
    this.shown += (this.target - this.shown) * (this.reduced.matches ? 1 : EASE);
    this.draw();
  }

  /** Whether the drawing has come to rest. */
  isSettled() {
    return Math.abs(this.shown - this.target) < this.target * 0.001;
  }

  /** The sample under the horizontal place `x` (CSS pixels from the canvas' left). */
  sampleAt(x) {
    return Math.round((x / this.canvas.clientWidth) * this.shown * SAMPLE_RATE);
  }

  measure(samples, complete) {
    const end = complete ? samples.length : samples.length - BIN;
    while (this.binned < end) {
      let peak = 0;
      const stop = Math.min(this.binned + BIN, samples.length);
      for (let i = this.binned; i < stop; i++) peak = Math.max(peak, Math.abs(samples[i]));
      this.peaks.push(peak);
      this.binned = stop;
      this.loudest = Math.max(this.loudest, peak);
    }
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    const scale = devicePixelRatio;
    if (this.canvas.width !== Math.round(width * scale)) this.canvas.width = Math.round(width * scale);
    if (this.canvas.height !== Math.round(height * scale)) this.canvas.height = Math.round(height * scale);
    const brush = this.canvas.getContext("2d");
    brush.setTransform(scale, 0, 0, scale, 0, 0);
    brush.clearRect(0, 0, width, height);
    this.drawBars(brush, width, height);
    this.drawMarker(brush, width, height);
  }

  drawBars(brush, width, height) {
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [heard, received, empty] = ["--wave-heard", "--wave-received", "--wave-empty"].map(colour);
    const samplesPerPixel = (this.shown * SAMPLE_RATE) / width;
    for (let x = 0; x + BAR <= width; x += BAR + GAP) {
      const from = x * samplesPerPixel;
      const peak = this.peakBetween(from, (x + BAR + GAP) * samplesPerPixel);
      const isHere = from < this.length;
      const tall = isHere ? Math.max(BAR, (peak / this.loudest) ** 0.8 * (height - 12)) : BAR;
      brush.fillStyle = !isHere ? empty : from < this.position ? heard : received;
      brush.beginPath();
      brush.roundRect(x, (height - tall) / 2, BAR, tall, BAR / 2);
      brush.fill();
    }
  }

  drawMarker(brush, width, height) {
    if (!this.position) return;
    const x = Math.min((this.position / SAMPLE_RATE / this.shown) * width, width - 1);
    brush.fillStyle = getComputedStyle(this.canvas).getPropertyValue("--wave-marker").trim();
    brush.fillRect(x - 0.75, 0, 1.5, height);
  }

  peakBetween(from, to) {
    let peak = 0;
    const last = Math.min(Math.ceil(to / BIN), this.peaks.length);
    for (let i = Math.floor(from / BIN); i < last; i++) peak = Math.max(peak, this.peaks[i]);
    return peak;
  }
}
