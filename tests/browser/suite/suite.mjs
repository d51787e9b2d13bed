// The suite in a browser: fetches files, hands them to the module, collects what it answers.
//
// What a case is and when it passes is decided in Rust (`tests/src`), by the code that the native tests run.

import init, { Suite, SuiteTower } from "/pkg/lenslet_relaxed.js";

import { ABSENT, bytes, device, json, optional } from "./files.mjs";
import { captions, greedy, smollm2 } from "./writing.mjs";

const filter = new URLSearchParams(location.search).get("filter") ?? "";

/** Rounds over the 8-bit products, twelve cases each. */
const ROUNDS = 2;

/** Pictures and texts of each bundled model that are compared. */
const BUNDLED_CASES = device === "webgpu" ? 4 : 12;

/** Pictures among which the best are looked for. */
const RANKED_PICTURES = device === "webgpu" ? 40 : 200;

/** Pictures or texts that run together where that changes nothing. */
const BATCH = 10;

/** The full-size graphs. */
const FULL_SIZE = ["vision_model", "text_model"];

globalThis.__lenslet_results = run();

async function run() {
  await init({ module_or_path: "/pkg/lenslet_relaxed.wasm" });
  const suite = await Suite.open(device);
  console.log(`the suite runs on ${device} ${suite.adapter()}`);
  const recorder = new Recorder();
  const parts = [integers, graphs, greedy, bundled, ranking, captions, fullSize, smollm2];
  for (const part of parts) {
    const started = performance.now();
    await part(suite, recorder);
    const seconds = Math.round((performance.now() - started) / 1000);
    console.log(`${part.name}: ${seconds} s; ${recorder.summary()}`);
  }
  const [best, ...others] = Suite.levels();
  console.log(`products ran with ${best}`);
  // A GPU does not care; on WASM, what this engine would not choose must be right as well.
  for (const level of device === "webgpu" ? [] : others) {
    const limited = suite.limited(level);
    for (const part of [integers, graphs]) {
      await part(limited, recorder, ` [${level}]`);
    }
    console.log(`${level}: ${recorder.summary()}`);
  }
  return { device, cases: recorder.cases };
}

/** The cases that ran, as the report wants them. */
class Recorder {
  cases = [];

  /** Whether a case is wanted. */
  wants(name) {
    return name.includes(filter);
  }

  /** Runs a case; what it throws is why it failed. */
  async run(name, work) {
    const started = performance.now();
    const entry = { name, ok: false };
    this.cases.push(entry);
    try {
      entry.detail = await work();
      entry.ok = true;
    } catch (error) {
      entry.detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
      console.error(`FAILED ${name}: ${entry.detail}`);
    }
    entry.ms = Math.round(performance.now() - started);
    if (entry.ms > 5000) {
      console.log(`${name}: ${entry.ms} ms`);
    }
    return entry;
  }

  /** Notes a case that cannot run here. */
  skip(name, reason) {
    console.log(`skipped ${name}: ${reason}`);
    this.cases.push({ name, ok: true, skipped: reason });
  }

  summary() {
    const skipped = this.cases.filter((one) => one.skipped).length;
    const passed = this.cases.filter((one) => one.ok && !one.skipped).length;
    return `${passed} of ${this.cases.length - skipped} passed so far, ${skipped} skipped`;
  }
}

/** 8-bit products against plain loops. */
async function integers(suite, recorder, suffix = "") {
  const names = suite.makeIntegers(ROUNDS).map((name) => name + suffix);
  if (!names.some((name) => recorder.wants(name))) {
    return;
  }
  // The module takes its cases from the end.
  for (const name of names.toReversed()) {
    await recorder.run(name, () => suite.nextInteger());
  }
}

/** Every graph of the zoo against its golden. */
async function graphs(suite, recorder, suffix = "") {
  const names = json(await bytes("graphs.json")).filter((name) => recorder.wants(name + suffix));
  if (names.length === 0) {
    return;
  }
  if ((await optional(`/shared/zoo/${names[0]}.golden.safetensors`)) === undefined) {
    recorder.skip(`zoo${suffix}`, ABSENT);
    return;
  }
  let done = 0;
  for (const name of names) {
    const [model, golden] = await Promise.all([
      bytes(`/shared/zoo/${name}.onnx`),
      bytes(`/shared/zoo/${name}.golden.safetensors`),
    ]);
    const entry = await recorder.run(name + suffix, () => suite.graph(name, model, golden));
    const known = suite.ignored(name);
    if (known !== undefined && entry.ok) {
      entry.ok = false;
      entry.detail = "passes: take it off the list of ignored graphs";
    } else if (known !== undefined) {
      entry.skipped = known;
    }
    done += 1;
    if (done % 20 === 0) {
      console.log(`${done} of ${names.length} graphs`);
    }
  }
  const passed = names.filter((name) => recorder.cases.find((one) => one.name === name + suffix)?.ok).length;
  console.log(`${passed} of ${names.length} graphs on ${device}`);
}

/** A dual tower of a folder that is served. */
async function tower(suite, folder, image, text, batch) {
  const names = SuiteTower.configFiles();
  const found = await Promise.all(names.map((name) => optional(`${folder}/${name}`)));
  const files = names.map((name, n) => ({ name, bytes: found[n] })).filter((file) => file.bytes);
  const [vision, words] = await Promise.all([bytes(`${folder}/${image}`), bytes(`${folder}/${text}`)]);
  return suite.tower(files, vision, words, batch);
}

/** The bundled models, from picture files and texts onward. */
async function bundled(suite, recorder) {
  for (const model of ["photo-search", "emoji-clip"]) {
    const tensors = await bytes(`../goldens/${model}.safetensors`);
    const listing = await bytes(`../goldens/${model}.json`);
    const { pictures, texts, vision, text } = json(listing);
    // Spread over the list, so that odd ones are among them.
    const chosen = (list) => list.map((_, n) => n).filter((n) => n % Math.ceil(list.length / BUNDLED_CASES) === 0);
    const names = [
      ...chosen(pictures).map((n) => [`${model} ${pictures[n]}`, n, true]),
      ...chosen(texts).map((n) => [`${model} text ${n}`, n, false]),
    ].filter(([name]) => recorder.wants(name));
    if (names.length === 0) {
      continue;
    }
    let loaded;
    await recorder.run(`${model} loads`, async () => {
      loaded = await tower(suite, `/models/bundled/${model}`, vision, text, 1);
    });
    for (const [name, n, isPicture] of loaded ? names : []) {
      await recorder.run(name, async () =>
        isPicture
          ? await loaded.picture(listing, tensors, n, await bytes(served(pictures[n])))
          : await loaded.text(listing, tensors, n),
      );
    }
    loaded?.free();
  }
}

/** Where a file of the repository is served. */
function served(path) {
  return path.startsWith("models/") ? `/${path}` : path.replace(/^tests\//, "../");
}

/** The same best emoji as everywhere. */
async function ranking(suite, recorder) {
  const name = "emoji-clip fp32 ranking";
  if (!recorder.wants(name)) {
    return;
  }
  const folder = "/shared/emoji-clip";
  if ((await optional(`${folder}/config.json`)) === undefined) {
    recorder.skip(name, ABSENT);
    return;
  }
  await recorder.run(name, async () => {
    const list = await bytes("../goldens/emoji-ranking.json");
    const names = SuiteTower.rankingPictures(list, RANKED_PICTURES);
    const pictures = await Promise.all(names.map((picture) => bytes(`${folder}/${picture}`)));
    const loaded = await tower(suite, folder, "vision_model.onnx", "text_model.onnx", BATCH);
    try {
      return await loaded.ranking(list, RANKED_PICTURES, pictures);
    } finally {
      loaded.free();
    }
  });
}

/** CLIP ViT-B/32 at its real size. */
async function fullSize(suite, recorder) {
  const folder = "/shared/zoo/clip-vit-base-patch32/full";
  for (const graph of FULL_SIZE) {
    const name = `clip-vit-base-patch32 full ${graph}`;
    if (!recorder.wants(name)) {
      continue;
    }
    const check = await optional(`${folder}/check.json`);
    if (check === undefined) {
      recorder.skip(name, ABSENT);
      continue;
    }
    const skeleton = await bytes(`${folder}/${graph}.skeleton.onnx.gz`);
    await recorder.run(name, () => suite.fullSize(graph, skeleton, check));
  }
}
