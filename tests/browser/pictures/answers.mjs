// Questions about pictures the way a page asks them: through the npm package and its worker. What a decoder with an image
// prefix answers, the native tests know (`tests/tests/answers.rs` has the same golden); a decoder that attends to the picture
// is the bundled captioner, whose caption goes on behind the question.

import { isAbort, loadAnswerer } from "/package/dist/index.js";

import { CAPTION, PICTURE } from "./captions.mjs";
import { equal, kind, runCases } from "./cases.mjs";

/** Answers that are interrupted while memory is watched. */
const INTERRUPTED = { wasm: 12, webgpu: 2 };

/** All cases of both kinds of decoders. */
export async function answers(device, filter) {
  const golden = await (await fetch("/goldens/answers.json")).json();
  const folder = `/shared/${golden.model}/`;
  const cases = await ask("/served/emoji-captioner/", "emoji-captioner as answerer", ATTENDING, PICTURE);
  if (!(await fetch(`${folder}config.json`)).ok) {
    const skipped = "the test material (shared) is not on this machine";
    return [...cases, { name: `answers of ${golden.model}`, ok: true, skipped }];
  }
  return [...cases, ...(await ask(folder, golden.model, prefixed(golden), `/${golden.picture}`))];

  async function ask(model, name, work, picture) {
    const answerer = await loadAnswerer(model, { device, cache: false, variant: model === folder ? "" : undefined });
    equal(answerer.device, device);
    const blob = await (await fetch(picture)).blob();
    const done = await runCases(name, work, filter, answerer, blob);
    await answerer.dispose();
    return done;
  }
}

/** A decoder that attends to the picture. */
const ATTENDING = {
  async "without a question, captions"(answerer, blob) {
    const { text, usage } = await answerer.ask(blob, "");
    equal([text, usage.promptTokens], [CAPTION, 1]);
    return text;
  },

  async "goes on behind the question"(answerer, blob) {
    const { text } = await answerer.ask(blob, CAPTION.slice(0, 5));
    equal(text, CAPTION.slice(5).trim());
    return text;
  },
};

/** A decoder with the picture in its prompt. */
const prefixed = ({ answers: expected, maxNewTokens }) => ({
  async "answers as natively, and reads a picture once"(answerer, blob) {
    const got = [];
    for (const { question } of expected) {
      const { text, usage, finishReason } = await answerer.ask(blob, question, { maxNewTokens });
      got.push({ question, text, promptTokens: usage.promptTokens });
      equal(finishReason, "length");
    }
    equal(got, expected);
    return got.map(({ text }) => text).join("|");
  },

  async "reads a picture again when it is forgotten, and another one by itself"(answerer, blob) {
    const [{ question, promptTokens, text }] = expected;
    await answerer.forget();
    const again = await answerer.ask(blob, question, { maxNewTokens });
    equal([again.text, again.usage.promptTokens], [text, promptTokens]);
    const other = await (await fetch("/models/gallery/emoji/1F300.png")).blob();
    const second = await answerer.ask(other, question, { maxNewTokens });
    equal([second.usage.promptTokens, second.text === text], [promptTokens, false]);
    const back = await answerer.ask(blob, question, { maxNewTokens });
    equal([back.text, back.usage.promptTokens], [text, promptTokens]);
    return second.text;
  },

  async "comes in pieces, and frees what it held when it is interrupted"(answerer, blob) {
    const { question, text } = expected.at(-1);
    const stream = answerer.stream(blob, question, { maxNewTokens });
    const pieces = [];
    for await (const piece of stream) {
      pieces.push(piece);
    }
    equal([pieces.join(""), pieces.length > 1], [text, true]);
    const interrupt = async () => {
      const controller = new AbortController();
      try {
        for await (const _ of answerer.stream(blob, question, { signal: controller.signal, maxNewTokens })) {
          controller.abort();
        }
      } catch (error) {
        equal(isAbort(error), true);
        return;
      }
      throw new Error("the answer went on");
    };
    await interrupt();
    equal((await answerer.ask(blob, question, { maxNewTokens })).text, text);
    const before = await answerer.memory();
    for (let i = 0; i < INTERRUPTED[answerer.device]; i += 1) {
      await interrupt();
    }
    equal((await answerer.ask(blob, question, { maxNewTokens })).text, text);
    const after = await answerer.memory();
    if (after.host > before.host || after.device > before.device) {
      throw new Error(`${JSON.stringify(before)} before, ${JSON.stringify(after)} after`);
    }
    return JSON.stringify(after);
  },

  async "refuses a question with the picture's own token, and what does not fit"(answerer, blob) {
    equal(await kind(answerer.ask(blob, "what is <image>?")), "question_image_token");
    equal(await kind(answerer.ask(blob, "very long ".repeat(9000))), "context_full");
    equal(await kind(answerer.ask(new Blob(["no picture"]), "what?")), "image_corrupt");
    equal(await kind(loadAnswerer("/served/photo-search/", { device: answerer.device, cache: false })), "not_found");
    return "typed errors";
  },
});
