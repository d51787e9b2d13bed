// Lenslet through its npm package, as any page would use it.

import { capabilities, loadTextGenerator } from "/package/dist/index.js";

export async function load(model) {
  const { wasm } = await capabilities();
  const generator = await loadTextGenerator(`/models/${model}/`, {
    device: "wasm",
    variant: "quantized",
    // A fresh profile has nothing to find again.
    cache: false,
  });

  async function write(prompt, tokens, onTokens) {
    const stream = generator.stream(prompt, { maxNewTokens: tokens, temperature: 0 });
    let [text, count] = ["", 0];
    const look = () => {
      const { completionTokens } = stream.usage;
      if (completionTokens > count) {
        count = completionTokens;
        onTokens(count);
      }
    };
    for await (const piece of stream) {
      text += piece;
      look();
    }
    // A last token that made no whole character.
    look();
    return { text, promptTokens: stream.usage.promptTokens };
  }

  return { facts: { module: wasm }, write };
}
