// What a server says about itself, for scripts that wait until its place is taken or free.
import { setTimeout as sleep } from "node:timers/promises";

/** Requests whose speech is being generated. */
export async function running(root) {
  return (await (await fetch(`${root}/health`)).json()).running;
}

// Less than the speech of a client that left would have taken: its end frees the place as well.
const PATIENCE = 25_000;

/** Returns when exactly `count` are, which has to be soon. */
export async function untilRunning(root, count) {
  const deadline = performance.now() + PATIENCE;
  while ((await running(root)) !== count) {
    if (performance.now() > deadline) throw new Error(`the server is not at ${count} requests`);
    await sleep(10);
  }
}
