// Captions the way a page takes them: through the npm package and its worker, piece by piece, interrupted, with wrong
// wishes. What the captions must be, the suite knows (`tests/src/captions.rs`); here it is how they come.

import { isAbort, loadCaptioner } from "/package/dist/index.js";

import { equal, kind, runCases } from "./cases.mjs";

/** A picture of the gallery, and what the captioner says of it. */
export const PICTURE = "/models/gallery/emoji/1F1E6-1F1F7.png";
export const CAPTION = "flag: argentina";

/** Captions that are interrupted while memory is watched; a software WebGPU takes seconds for each. */
const INTERRUPTED = { wasm: 12, webgpu: 2 };

/** All cases, one after the other on one captioner. */
export async function captions(device, filter) {
  const captioner = await loadCaptioner("/served/emoji-captioner/", { device, cache: false });
  if (captioner.device !== device) {
    throw new Error(`the package ran on ${captioner.device} instead of ${device}`);
  }
  const blob = await (await fetch(PICTURE)).blob();
  const cases = await runCases("emoji-captioner", CASES, filter, captioner, blob);
  await captioner.dispose();
  return cases;
}

const CASES = {
  async "comes in pieces"(captioner, blob) {
    const stream = captioner.stream(blob);
    const pieces = [];
    for await (const piece of stream) {
      pieces.push(piece);
    }
    equal(pieces.join(""), CAPTION);
    equal(pieces.length > 1 && pieces.every(Boolean), true);
    equal([stream.finishReason, stream.usage.promptTokens], ["stop", 1]);
    return pieces.join("|");
  },

  async "ends where it is told"(captioner, blob) {
    const { text, usage, finishReason } = await captioner.caption(blob, { maxNewTokens: 1 });
    equal([finishReason, usage.completionTokens, CAPTION.startsWith(text)], ["length", 1, true]);
    const stopped = await captioner.caption(blob, { stop: [":"] });
    equal([stopped.text, stopped.finishReason], ["flag", "stop"]);
    return text;
  },

  async "draws the same with the same seed"(captioner, blob) {
    const wishes = { temperature: 1.5, seed: 7, maxNewTokens: 4 };
    const [first, second] = [await captioner.caption(blob, wishes), await captioner.caption(blob, wishes)];
    equal(first.text, second.text);
    return first.text;
  },

  async "interrupted, frees what it held"(captioner, blob) {
    const interrupt = async () => {
      const controller = new AbortController();
      let pieces = 0;
      try {
        for await (const _ of captioner.stream(blob, { signal: controller.signal })) {
          pieces += 1;
          controller.abort();
        }
      } catch (error) {
        equal([isAbort(error), pieces], [true, 1]);
        return;
      }
      throw new Error("the caption went on");
    };
    await interrupt();
    equal((await captioner.caption(blob)).text, CAPTION);
    const before = await captioner.memory();
    for (let i = 0; i < INTERRUPTED[captioner.device]; i += 1) {
      await interrupt();
    }
    equal((await captioner.caption(blob)).text, CAPTION);
    const after = await captioner.memory();
    if (after.host > before.host || after.device > before.device) {
      throw new Error(`${JSON.stringify(before)} before, ${JSON.stringify(after)} after`);
    }
    return JSON.stringify(after);
  },

  async "refuses wrong wishes and what is no picture"(captioner, blob) {
    equal(await kind(captioner.caption(blob, { temperature: -1 })), "sampling_range");
    equal(await kind(captioner.caption(blob, { maxNewTokens: 1.5 })), "bad_call");
    equal(await kind(captioner.caption(new Blob(["no picture"]))), "image_corrupt");
    return "typed errors";
  },
};
