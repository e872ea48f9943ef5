// What is shown of an utterance: clock, waveform, figures, its file. It reads, and never changes, the utterance.

import { SAMPLE_RATE } from "./samples.js";
import { Waveform } from "./waveform.js";

const CHARACTERS_A_SECOND = 15;

const $ = (id) => document.getElementById(id);

export class Readout {
  constructor() {
    this.waveform = new Waveform($("waveform"));
    this.utterance = null;
  }

  /** Show a new utterance from now on. */
  begin(utterance) {
    this.utterance = utterance;
    const { input, speed = 1 } = utterance.request;
    this.waveform.clear(input.length / CHARACTERS_A_SECOND / speed);
    this.offerFile(null);
    this.update();
  }

  /** Draw the present state; true when nothing will change any more by itself. */
  update() {
    const utterance = this.utterance;
    if (!utterance) return true;
    const { player } = utterance;
    this.waveform.update(player.samples.view(), player.position(), player.complete);
    this.tellTime(player.position(), player.samples.length);
    this.tellFigures(utterance);
    const sound = player.state();
    $("main").dataset.sound = sound;
    $("replay").disabled = !player.samples.length;
    if (utterance.file && !this.url) this.offerFile(utterance);
    return player.complete && !["playing", "waiting"].includes(sound) && this.waveform.isSettled();
  }

  tellTime(position, length) {
    $("position").textContent = clock(position);
    $("duration").textContent = clock(length);
    const slider = $("waveform");
    slider.setAttribute("aria-valuenow", (position / SAMPLE_RATE).toFixed(1));
    slider.setAttribute("aria-valuemax", (length / SAMPLE_RATE).toFixed(1));
    slider.setAttribute("aria-valuetext", `${clock(position)} of ${clock(length)}`);
  }

  tellFigures(utterance) {
    const { ttfaMs, audibleMs, realTimeFactor, player, bytes } = utterance;
    $("ttfa").textContent = milliseconds(ttfaMs);
    $("audible").textContent = milliseconds(audibleMs);
    $("rtf").textContent = realTimeFactor === null ? "–" : realTimeFactor.toFixed(2);
    $("underruns").textContent = String(player.underruns);
    $("underruns").classList.toggle("bad", player.underruns > 0);
    $("received").textContent = bytes.length ? `${(bytes.length / 1000).toFixed(1)} kB` : "–";
  }

  offerFile(utterance) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = utterance ? URL.createObjectURL(utterance.file) : null;
    const link = $("download");
    link.setAttribute("aria-disabled", String(!utterance));
    if (utterance) {
      link.href = this.url;
      link.download = `speech.${utterance.request.response_format}`;
    } else link.removeAttribute("href");
  }
}

function clock(samples) {
  const seconds = Math.floor((samples / SAMPLE_RATE) * 10) / 10;
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

const milliseconds = (value) => (value === null ? "–" : `${Math.round(value).toLocaleString("en")} ms`);
