// A graph on WASM in two runtimes, in turns: each has a worker that loads the graph once and is idle while the
// other runs. Started by `cargo xtask bench web`.

import { RuntimeWorker } from "./runtime-worker.mjs";

const RUNTIMES = ["lenslet", "onnxruntime-web"];

/** How long a turn should take at least, in milliseconds. */
const TURN_MS = 150;
/** Runs longer than this have forgotten by their end what the caches held: none before them does not count. */
const LONG_MS = 500;
const MOST_RUNS = 50;

/**
 * Runs before the first turn: a browser compiles a module's busy functions once more while they run, and that is
 * not what a run costs.
 */
const WARM_UP_MS = 1000;
const WARM_UP_RUNS = 3;

globalThis.__lenslet_results = run();

async function run() {
  const parameters = new URLSearchParams(location.search);
  const sizes = Object.fromEntries(
    parameters.get("sizes").split(",").map((word) => [word.split("=")[0], Number(word.split("=")[1])]),
  );
  const task = { model: parameters.get("model"), sizes, threads: Number(parameters.get("threads")) };
  if (task.threads > 1 && !crossOriginIsolated) {
    throw new Error("threads need a page that is cross-origin isolated");
  }

  const order = parameters.get("first") === RUNTIMES[0] ? RUNTIMES : RUNTIMES.toReversed();
  const sides = [];
  for (const runtime of order) {
    const worker = new RuntimeWorker(runtime);
    sides.push({ runtime, worker, found: await worker.call({ load: { runtime, ...task } }), turns: [] });
  }
  const [cosine, length] = compare(...sides.map((side) => side.found.output));
  for (const side of sides) {
    delete side.found.output;
    side.pace = side.found.first_ms;
    for (let [runs, spent] = [0, 0]; runs < WARM_UP_RUNS || spent < WARM_UP_MS; runs += 1) {
      [side.pace] = await side.worker.call({ run: 1 });
      spent += side.pace;
    }
  }
  for (let round = 0; round < Number(parameters.get("rounds")); round += 1) {
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      const before = side.pace < LONG_MS ? 1 : 0;
      const runs = Math.min(MOST_RUNS, Math.max(1, Math.ceil(TURN_MS / side.pace)));
      const times = (await side.worker.call({ run: before + runs })).slice(before);
      side.pace = median(times);
      side.turns.push(side.pace);
    }
  }
  const results = { cosine, length };
  for (const { runtime, worker, found, turns } of sides) {
    results[runtime] = { ...found, turns, ...(await worker.call({ end: true })) };
  }
  return results;
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.floor(sorted.length / 2)]) / 2;
}

/** The cosine of two outputs, which must have as many elements, and how many these are. */
function compare(a, b) {
  if (a.length !== b.length || a.length === 0) {
    throw new Error(`the outputs have ${a.length} and ${b.length} elements`);
  }
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return [ab / Math.sqrt(aa * bb), a.length];
}
