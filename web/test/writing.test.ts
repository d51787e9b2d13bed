import assert from "node:assert/strict";
import { test } from "node:test";
import { isAbort, LoadError, PictureError, RunError } from "../ts/errors.js";
import { bench, gpuFailure } from "./support.js";

const cat = () => new Blob(["cat"]);
const soon = () => new Promise((resolve) => setTimeout(resolve, 20));

test("a caption comes whole or in pieces, with what it took", async () => {
  const { controls, loadCaptioner } = bench();
  const captioner = await loadCaptioner();
  assert.deepEqual(await captioner.caption(cat(), { maxNewTokens: 9, stop: ["."] }), {
    text: "a cat",
    usage: { promptTokens: 1, completionTokens: 2 },
    finishReason: "stop",
    answeredBy: "local",
    reason: "no_server",
    answers: [{ answeredBy: "local", reason: "no_server" }],
  });
  assert.deepEqual(controls.wishes, [{ maxNewTokens: 9, stop: ["."] }]);

  const stream = captioner.stream(cat());
  const pieces: string[] = [];
  for await (const piece of stream) {
    pieces.push(piece);
  }
  assert.deepEqual(pieces, ["a ", "cat"]);
  assert.deepEqual([stream.usage.completionTokens, stream.finishReason], [2, "stop"]);
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
  assert.equal(controls.open, 0);
});

test("a picture that cannot be read fails the caption, and only that", async () => {
  const captioner = await bench().loadCaptioner();
  await assert.rejects(captioner.caption(new Blob(["?"])), PictureError);
  assert.equal((await captioner.caption(cat())).text, "a cat");
});

test("questions about a picture are answered whole or in pieces, until it is forgotten", async () => {
  const { controls, loadAnswerer } = bench();
  const answerer = await loadAnswerer();
  const dog = () => new Blob(["dog"]);
  const answer = await answerer.ask(dog(), "what is it?", { maxNewTokens: 9 });
  assert.deepEqual([answer.text, answer.finishReason], ["it is a dog", "stop"]);
  const pieces: string[] = [];
  for await (const piece of answerer.stream(dog(), "and now?")) {
    pieces.push(piece);
  }
  assert.deepEqual(pieces, ["it ", "is ", "a ", "dog"]);
  assert.deepEqual([controls.seen, controls.questions], [1, ["what is it?", "and now?"]]);
  assert.deepEqual(controls.wishes, [{ maxNewTokens: 9 }, {}]);
  await answerer.forget();
  await answerer.ask(dog(), "again?");
  assert.deepEqual([controls.seen, controls.open], [2, 0]);

  const controller = new AbortController();
  await assert.rejects(async () => {
    for await (const _ of answerer.stream(cat(), "what?", { signal: controller.signal })) {
      controller.abort();
    }
  }, isAbort);
  await soon();
  assert.equal(controls.open, 0);
  await assert.rejects(answerer.ask(new Blob(["?"]), "what?"), PictureError);
  await answerer.dispose();
  await assert.rejects(answerer.ask(cat(), "what?"), RunError);
  await assert.rejects(answerer.forget(), RunError);
});

test("the probe of an answerer leaves no picture behind", async () => {
  const { controls, client } = bench();
  const args = { folder: "https://x/", model: "fake", cache: false, device: "auto", probe: true };
  const info = await client.call("loadAnswerer", { ...args, device: "auto" });
  assert.deepEqual(Object.keys(info.probed ?? {}), ["prompt", "token"]);
  await client.call("ask", { picture: cat(), question: "what?", wishes: {} });
  assert.equal(controls.seen, 2);
});

test("a text generator continues a prompt and answers in a conversation", async () => {
  const generator = await bench().loadGenerator();
  assert.equal(generator.canChat, true);
  const short = await generator.generate("one two three", { maxNewTokens: 2 });
  assert.deepEqual([short.text, short.finishReason], ["one two ", "length"]);
  const chat = await generator.generate([{ role: "user", content: "hello" }]);
  assert.equal(chat.text, "user: hello");
});

test("aborting between pieces rejects, frees the text, and the next call works", async () => {
  const { controls, loadGenerator } = bench();
  const generator = await loadGenerator();
  const controller = new AbortController();
  const pieces: string[] = [];
  await assert.rejects(async () => {
    const prompt = "one two three four five six";
    for await (const piece of generator.stream(prompt, { signal: controller.signal })) {
      pieces.push(piece);
      if (pieces.length === 2) {
        controller.abort();
      }
    }
  }, isAbort);
  await soon();
  assert.deepEqual([pieces.length, controls.open, controls.steps], [2, 0, 2]);
  assert.equal((await generator.generate("again")).text, "again");
});

test("aborting in the middle of a step rejects at once and frees the text", async () => {
  const { controls, loadGenerator } = bench();
  const generator = await loadGenerator();
  const controller = new AbortController();
  controls.beforeStep = soon as () => Promise<void>;
  const text = generator.generate("one two three", { signal: controller.signal });
  setTimeout(() => controller.abort(), 5);
  await assert.rejects(text, isAbort);
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.equal(controls.open, 0);
  delete controls.beforeStep;
  assert.equal((await generator.generate("again")).text, "again");
});

test("a text that is aborted while it begins is freed, however far it came", async () => {
  for (const delay of [0, 1, 5, 10]) {
    const { controls, loadCaptioner } = bench();
    const captioner = await loadCaptioner();
    const controller = new AbortController();
    controls.beforeEmbed = () => new Promise((resolve) => setTimeout(resolve, 4));
    const caption = captioner.caption(cat(), { signal: controller.signal });
    setTimeout(() => controller.abort(), delay);
    await caption.catch((error) => assert.ok(isAbort(error), String(error)));
    await soon();
    assert.equal(controls.open, 0, `after ${delay} ms`);
  }
});

test("an answer that crosses its cancellation leaves no text behind", async () => {
  const { controls, client, loadCaptioner } = bench();
  await loadCaptioner();
  const controller = new AbortController();
  const call = client.call(
    "caption",
    { picture: cat(), wishes: {} },
    { signal: controller.signal },
  );
  // The worker has begun the text and posted its answer; the page has not seen it yet.
  while (controls.open === 0) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  controller.abort();
  await assert.rejects(call, isAbort);
  await soon();
  assert.equal(controls.open, 0);
});

test("leaving the loop ends the text", async () => {
  const { controls, loadGenerator } = bench();
  const generator = await loadGenerator();
  for await (const piece of generator.stream("one two three")) {
    assert.equal(piece, "one ");
    break;
  }
  assert.deepEqual([controls.open, controls.steps], [0, 1]);
});

test("two texts at a time take turns", async () => {
  const generator = await bench().loadGenerator();
  const order: string[] = [];
  const read = async (prompt: string) => {
    for await (const piece of generator.stream(prompt)) {
      order.push(piece.trim());
    }
  };
  await Promise.all([read("a b c d"), read("1 2 3 4")]);
  assert.equal(order.length, 8);
  const first = order.findIndex((piece) => /[0-9]/.test(piece));
  const last = order.findLastIndex((piece) => /[a-z]/.test(piece));
  assert.ok(first < last, order.join(" "));
});

test("a GPU that is lost is opened again, and the text goes on behind what was given out", async () => {
  const { controls, loadCaptioner } = bench();
  const captioner = await loadCaptioner();
  let lost = true;
  const lose = (): void => {
    if (lost) {
      lost = false;
      throw new RunError("device_lost", "the GPU went away");
    }
  };
  controls.beforeEmbed = lose;
  assert.equal((await captioner.caption(cat())).text, "a cat");
  assert.deepEqual(controls.loads, ["webgpu", "webgpu"]);

  delete controls.beforeEmbed;
  const pieces: string[] = [];
  for await (const piece of captioner.stream(cat())) {
    pieces.push(piece);
    lost = true;
    controls.beforeStep = lose;
  }
  assert.deepEqual(pieces, ["a ", "cat"]);
  assert.deepEqual(controls.wishes.at(-1), { resumeTokens: [1, 2] });
  assert.equal(controls.open, 0);

  // One that is lost at every step is told.
  controls.beforeStep = () => {
    throw new RunError("device_lost", "the GPU went away");
  };
  await assert.rejects(
    captioner.caption(cat()),
    (error) => error instanceof RunError && error.kind === "device_lost",
  );
  await soon();
  assert.equal(controls.open, 0);
});

test("writers fall back to WASM as towers do", async () => {
  const { controls, loadGenerator } = bench();
  controls.beforeLoad = (device) => {
    if (device === "webgpu") {
      throw gpuFailure();
    }
  };
  const generator = await loadGenerator();
  assert.deepEqual([generator.device, generator.adapter], ["wasm", ""]);
  assert.match(generator.fallback ?? "", /could not be made/);
  await assert.rejects(loadGenerator("webgpu"), LoadError);
});

test("dispose ends texts and rejects later calls", async () => {
  const { controls, loadCaptioner } = bench();
  const captioner = await loadCaptioner();
  assert.deepEqual(await captioner.memory(), { host: 10, device: 20 });
  const stream = captioner.stream(cat());
  await stream.next();
  await captioner.dispose();
  assert.deepEqual([controls.open, controls.disposed], [0, 1]);
  await assert.rejects(
    captioner.caption(cat()),
    (error) => error instanceof RunError && error.kind === "disposed",
  );
  await assert.rejects(stream.next(), RunError);
});
