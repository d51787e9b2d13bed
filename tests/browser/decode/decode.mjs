// Tokens a second of one runtime in this browser, on WASM. Started by `cargo xtask bench decode`.
//
// A runtime's module exports `load(model)`, which gives { facts, write(prompt, tokens, onTokens) }: `write`
// continues the prompt greedily, calls `onTokens(count)` whenever there are more tokens than before and gives
// { text, promptTokens }.

const RUNTIMES = { lenslet: "./lenslet.mjs", "transformers.js": "./transformers.mjs" };

/** A browser compiles a module's busy functions once more while they run; that is not what decoding costs. */
const WARM_UP = 12;

globalThis.__lenslet_results = run();

async function run() {
  const parameters = new URLSearchParams(location.search);
  const [name, model, prompt] = ["runtime", "model", "prompt"].map((key) => parameters.get(key));
  const wanted = Number(parameters.get("tokens"));
  const { load } = await import(RUNTIMES[name]);

  const began = performance.now();
  const { facts, write } = await load(model);
  const loaded = performance.now();
  await write(prompt, WARM_UP, () => {});

  const marks = [];
  const started = performance.now();
  const written = await write(prompt, wanted, (count) => marks.push({ count, at: performance.now() }));
  // The first token comes with the prompt.
  const [first, last] = [marks.at(0), marks.at(-1)];
  if (last?.count !== wanted) {
    throw new Error(`${name} wrote ${last?.count ?? "no"} tokens instead of ${wanted}: ${written.text}`);
  }
  return {
    tokens_per_second: (1000 * (last.count - first.count)) / (last.at - first.at),
    load_ms: Math.round(loaded - began),
    prompt_ms: Math.round(first.at - started),
    prompt_tokens: written.promptTokens,
    text: written.text,
    ...facts,
  };
}
