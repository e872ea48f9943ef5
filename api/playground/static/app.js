// The page: wires the form, the server and one utterance at a time.

import { Form } from "./form.js";
import { Readout } from "./readout.js";
import { SAMPLE_RATE } from "./samples.js";
import { baseUrl, lists, readiness } from "./server.js";
import { snippet } from "./snippets.js";
import { Utterance } from "./utterance.js";

const TICK_MS = 50;
const POLL_MS = 1000;
const LOOK_AGAIN_MS = 5000;
const BUSY_TRIES = 5;

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const readout = new Readout();
const form = new Form(showCode);
let context = null;
let current = null;
let waiting = null;
let isDrawing = false;

// Speaking

async function speak() {
  if (form.problem) return fail({ message: form.problem });
  stop();
  // Made here because browsers allow sound only in answer to a person's act.
  context ??= new AudioContext({ sampleRate: SAMPLE_RATE });
  context.resume();
  fail(null);
  const attempt = (waiting = { leaving: false });
  for (let tries = 1; !attempt.leaving; tries++) {
    const error = await sayOnce(form.request, attempt);
    if (!error || attempt.leaving) return;
    if (error.status !== 503 || tries === BUSY_TRIES) return give(error);
    await countDown(error, attempt);
  }
}

async function sayOnce(request, attempt) {
  const utterance = (current = new Utterance(request, context));
  readout.begin(utterance);
  phase("asking", "Asking …");
  draw();
  try {
    await utterance.run(form.key);
    if (utterance === current) phase("received");
    return null;
  } catch (error) {
    if (error.name === "AbortError") attempt.leaving = true;
    return error;
  }
}

async function countDown(error, attempt) {
  for (let left = error.retryAfter ?? 2; left > 0 && !attempt.leaving; left--) {
    phase("busy", `The server is busy. Asking again in ${left} s`);
    await pause(1000);
  }
}

function give(error) {
  phase(current?.file ? "received" : "failed", "");
  fail(error);
  if (error.status === 401) form.askForKey();
}

/** Break off what is asked for, received, waited for or heard. True if there was anything. */
function stop() {
  const isBusy = ["asking", "receiving", "busy"].includes($("main").dataset.phase);
  const isHeard = current && ["playing", "waiting"].includes(current.player.state());
  if (waiting) waiting.leaving = true;
  current?.stop();
  if (isBusy) phase("stopped", "Stopped.");
  else if (isHeard) status("Stopped.");
  return isBusy || Boolean(isHeard);
}

function replay(from = 0) {
  if (!current?.player.samples.length) return;
  context.resume();
  current.player.play(from);
  current.isReplayed = true;
  draw();
}

// Showing

function phase(name, text) {
  $("main").dataset.phase = name;
  if (text !== undefined) status(text);
}

function status(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function fail(error) {
  $("error").hidden = !error;
  $("error-text").textContent = error?.message ?? "";
  $("error-text").dataset.from = error?.from ?? "";
  $("error-id").textContent = error?.requestId ? `Request ${error.requestId}` : "";
}

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(function frame() {
    isDrawing = !readout.update();
    if (isDrawing) requestAnimationFrame(frame);
  });
}

function tick() {
  if (!current) return;
  current.tick();
  const sound = current.player.state();
  const { phase: at } = current;
  if (at === "receiving") phase("receiving", sound === "playing" ? "Speaking, while the rest is being made" : "Receiving …");
  else if (at === "received" && $("main").dataset.phase === "received") {
    if (sound === "playing") status(current.isReplayed ? "Playing again." : "All received.");
    if (sound === "ended") status("Done.");
    if (context.state !== "running") status("All received, but the browser plays no sound.");
  }
  const isOn = ["asking", "receiving", "busy"].includes($("main").dataset.phase) || sound === "playing";
  $("speak").classList.toggle("on", isOn);
  $("speak-text").textContent = isOn ? "Stop" : "Speak";
}

function showCode() {
  const language = document.querySelector("[role=tab][aria-selected=true]").dataset.language;
  $("code-text").textContent = snippet(language, form.request, baseUrl(), Boolean(form.key));
  $("copy").textContent = "Copy";
}

async function copyCode() {
  const text = $("code-text").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers give the clipboard to secure pages only; the old way works on all.
    getSelection().selectAllChildren($("code-text"));
    document.execCommand("copy");
    getSelection().removeAllRanges();
  }
  $("copy").textContent = "Copied";
}

function chooseTab(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", tab.id);
  tab.focus();
  showCode();
}

// The server's state

async function watchServer() {
  let isOffered = false;
  for (;;) {
    const engine = await readiness();
    showServer(engine);
    if (engine.state === "ready" && !isOffered) isOffered = await offerLists();
    $("speak").disabled = !isOffered;
    await pause(isOffered && engine.state === "ready" ? LOOK_AGAIN_MS : POLL_MS);
  }
}

async function offerLists() {
  try {
    form.offer(await lists(form.key));
    if ($("error-text").dataset.from === "lists") fail(null);
    return true;
  } catch (error) {
    if (error.status === 401 && $("error").hidden) give(Object.assign(error, { from: "lists" }));
    return false;
  }
}

function showServer({ state, stage, done, model }) {
  const loading = stage ? `Loading the model: ${stage}, ${Math.round(done * 100)} %` : "Loading the model …";
  const texts = { ready: model, loading, unreachable: "The server cannot be reached", draining: "The server is stopping" };
  $("server").dataset.state = state;
  const text = texts[state] ?? `The engine is ${state}`;
  if ($("server-text").textContent !== text) $("server-text").textContent = text;
}

// Wiring

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("speak").classList.contains("on")) stop();
  else speak();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("speak").disabled) {
    event.preventDefault();
    speak();
  } else if (event.key === "Escape" && stop()) event.preventDefault();
});
$("replay").addEventListener("click", () => replay());
$("waveform").addEventListener("click", (event) => replay(readout.waveform.sampleAt(event.offsetX)));
$("waveform").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !current) return;
  event.preventDefault();
  replay(current.player.position() + step * SAMPLE_RATE);
});
$("copy").addEventListener("click", copyCode);
for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => chooseTab(tab));
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const tabs = [...document.querySelectorAll("[role=tab]")];
  chooseTab(tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length]);
});

setInterval(tick, TICK_MS);
showCode();
watchServer();
