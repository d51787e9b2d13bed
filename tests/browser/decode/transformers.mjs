// transformers.js on the same files, from this origin only.

import { AutoModelForCausalLM, AutoTokenizer, BaseStreamer, env } from "@huggingface/transformers";

const RUNTIME = new URL("/peer/onnxruntime-web/dist/", location.href);

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/models/";
// A fresh profile has nothing to find again.
env.useBrowserCache = false;
env.useWasmCache = false;

const { wasm } = env.backends.onnx;
wasm.numThreads = 1;
// The very files that it takes from a CDN by itself.
wasm.wasmPaths = Object.fromEntries(
  Object.entries(wasm.wasmPaths).map(([kind, url]) => [kind, new URL(url.split("/").pop(), RUNTIME).href]),
);

export async function load(model) {
  const tokenizer = await AutoTokenizer.from_pretrained(model);
  const generator = await AutoModelForCausalLM.from_pretrained(model, { device: "wasm", dtype: "q8" });

  async function write(prompt, tokens, onTokens) {
    const inputs = tokenizer(prompt);
    const promptTokens = inputs.input_ids.dims[1];
    const output = await generator.generate({
      ...inputs,
      max_new_tokens: tokens,
      do_sample: false,
      streamer: new Counter(onTokens),
    });
    const text = tokenizer.decode(output.slice(0, [promptTokens, null]), { skip_special_tokens: true });
    return { text, promptTokens };
  }

  return { facts: { module: wasm.wasmPaths.wasm.split("/").pop() }, write };
}

/** Counts what `generate` hands out: the prompt, then a token a step. */
class Counter extends BaseStreamer {
  #onTokens;
  #count = -1;

  constructor(onTokens) {
    super();
    this.#onTokens = onTokens;
  }

  put() {
    this.#count += 1;
    if (this.#count > 0) {
      this.#onTokens(this.#count);
    }
  }

  end() {}
}
