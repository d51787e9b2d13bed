// One runtime with one graph.
//
// A runtime's module exports `load(file, sizes, threads)`, which gives { facts, run }; `run()` runs the graph on
// inputs that never change and gives the elements of the first output.

import { memoryBytes } from "./memories.mjs";

const MODULES = { lenslet: "./lenslet.mjs", "onnxruntime-web": "./onnxruntime.mjs" };

let loaded;

const answers = {
  async load({ runtime, model, sizes, threads }) {
    const response = await fetch(`/models/${model}`);
    if (!response.ok) {
      throw new Error(`${response.url} answers ${response.status}`);
    }
    const file = new Uint8Array(await response.arrayBuffer());

    const began = performance.now();
    const { load } = await import(MODULES[runtime]);
    loaded = await load(file, sizes, threads);
    const ready = performance.now();
    const output = await loaded.run();
    const done = performance.now();
    return { load_ms: ready - began, first_ms: done - ready, output: Float32Array.from(output), ...loaded.facts };
  },

  async run(count) {
    const times = [];
    for (let run = 0; run < count; run += 1) {
      const began = performance.now();
      await loaded.run();
      times.push(performance.now() - began);
    }
    return times;
  },

  end: () => ({ peak_bytes: memoryBytes() }),
};

self.onmessage = async ({ data }) => {
  try {
    const [[name, argument]] = Object.entries(data);
    self.postMessage({ result: await answers[name](argument) });
  } catch (error) {
    self.postMessage({ error: String(error?.stack ?? error) });
  }
};
