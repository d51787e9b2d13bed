// Lenslet's module as the package's users get it, with an entry for a graph by itself.

import { concrete, sample } from "./inputs.mjs";

const MODULE = "lenslet_relaxed";

export async function load(file, sizes) {
  const { default: init, BenchGraph } = await import(`/pkg-bench/${MODULE}.js`);
  await init({ module_or_path: new URL(`/pkg-bench/${MODULE}.wasm`, location.href) });
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
  return { facts: { module: MODULE }, run: () => graph.run() };
}
