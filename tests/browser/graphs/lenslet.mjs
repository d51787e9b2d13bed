// Lenslet's module as the package's users get it, with an entry for a graph by itself.

import { concrete, sample } from "./inputs.mjs";

export async function load(file, sizes, threads) {
  const name = threads > 1 ? "lenslet_threads" : "lenslet_relaxed";
  const glue = new URL(`/pkg-bench/${name}.js`, location.href).href;
  const { default: init, BenchGraph, expectHelpers } = await import(glue);
  const module = await WebAssembly.compileStreaming(fetch(`/pkg-bench/${name}.wasm`));
  const { memory } = await init({ module_or_path: module });
  if (threads > 1) {
    const joined = Array.from({ length: threads - 1 }, () => join({ glue, module, memory }));
    const helpers = await Promise.all(joined);
    expectHelpers(helpers.length);
    helpers.forEach((helper, serve) => helper.postMessage({ serve }));
  }
  const graph = BenchGraph.load(file);
  for (const { name, type, shape } of graph.inputs()) {
    // Import puts an input's name before that of a size which is its own.
    const names = shape.map((size) =>
      typeof size === "string" && size.startsWith(`${name}.`) ? size.slice(name.length + 1) : size,
    );
    const dims = concrete(names, sizes);
    const values = sample(type === "i64", dims);
    graph.feed(name, dims, new Uint8Array(values.buffer));
  }
  return { facts: { module: name }, run: () => graph.run() };
}

/** A worker that has joined and can be told which helper to be, as the package's are. */
function join(message) {
  return new Promise((resolve, reject) => {
    const helper = new Worker(new URL("helper.mjs", import.meta.url), { type: "module" });
    helper.addEventListener("message", () => resolve(helper));
    helper.addEventListener("error", (event) => reject(new Error(`a helper: ${event.message}`)));
    helper.postMessage(message);
  });
}
