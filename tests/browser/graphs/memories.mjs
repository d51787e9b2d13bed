// Finds out how much wasm memory a worker's modules have, whoever loads them. Such memory never shrinks, so the size
// at the end is the peak. To be imported before the modules are.

const memories = new Set();

function watch(instance) {
  for (const exported of Object.values(instance.exports)) {
    if (exported instanceof WebAssembly.Memory) {
      memories.add(exported);
    }
  }
}

// A memory that a module imports.
WebAssembly.Memory = new Proxy(WebAssembly.Memory, {
  construct(target, parameters) {
    const memory = new target(...parameters);
    memories.add(memory);
    return memory;
  },
});

// A memory that a module exports.
for (const name of ["instantiate", "instantiateStreaming"]) {
  const original = WebAssembly[name];
  WebAssembly[name] = async (...parameters) => {
    const result = await original.apply(WebAssembly, parameters);
    watch(result.instance ?? result);
    return result;
  };
}

/** Bytes of all memories. */
export function memoryBytes() {
  return [...memories].reduce((sum, memory) => sum + memory.buffer.byteLength, 0);
}
