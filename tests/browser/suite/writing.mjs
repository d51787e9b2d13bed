// Decoders in a browser: the zoo's, token by token; captions; a language model with real weights.

import { Suite, SuiteCaptioner, SuiteLanguageModel } from "/pkg/lenslet_relaxed.js";

import { ABSENT, bytes, device, json, optional } from "./files.mjs";

/** Pictures that are captioned. */
const CAPTIONED = device === "webgpu" ? 12 : 60;

/** SmolLM2's graphs. */
const SMOLLM2 = ["model_quantized.onnx", "model.onnx"];

/** The zoo's decoders continue as ONNX Runtime does. */
export async function greedy(suite, recorder) {
  for (const folder of Suite.greedyFolders()) {
    const root = `/shared/zoo/${folder}`;
    const listing = await optional(`${root}/greedy.json`);
    if (listing === undefined) {
      recorder.skip(`greedy ${folder}`, ABSENT);
      continue;
    }
    const files = Object.keys(json(listing).files).filter((file) => recorder.wants(`greedy ${folder} ${file}`));
    if (files.length === 0) {
      continue;
    }
    const beside = await Promise.all(
      Suite.greedyFiles(folder).map(async (name) => ({ name, bytes: await bytes(`${root}/onnx/${name}`) })),
    );
    for (const file of files) {
      const graph = { name: file, bytes: await bytes(`${root}/onnx/${file}`) };
      await recorder.run(`greedy ${folder} ${file}`, () => suite.greedy(file, listing, [graph, ...beside]));
    }
  }
}

/** The emoji captioner says what it says in ONNX Runtime, and frees what it holds when it is interrupted. */
export async function captions(suite, recorder) {
  const folder = "/shared/emoji-clip";
  for (const precision of ["fp32", "int8"]) {
    const names = [`captions ${precision}`, `captions ${precision} cancelled`];
    if (!names.some((name) => recorder.wants(name))) {
      continue;
    }
    const listing = await optional(`${folder}/openmoji.json`);
    if (listing === undefined) {
      recorder.skip(names[0], ABSENT);
      continue;
    }
    const files = SuiteCaptioner.files(precision);
    const read = await Promise.all(
      files.map(async (name) => ({ name, bytes: await bytes(`${folder}/captioner/${name}`) })),
    );
    const pictures = await Promise.all(
      SuiteCaptioner.pictures(listing, CAPTIONED).map((name) => bytes(`${folder}/${name}`)),
    );
    let captioner;
    await recorder.run(`captions ${precision} loads`, async () => {
      captioner = suite.captioner(precision, read);
    });
    if (captioner) {
      const entry = await recorder.run(names[0], () => captioner.captions(listing, CAPTIONED, pictures));
      console.log(`${names[0]}: ${entry.detail}`);
      await recorder.run(names[1], () => captioner.cancel(pictures[0]));
      captioner.free();
    }
  }
}

/** A language model, if LENSLET_SMOLLM2 names its folder. */
export async function smollm2(suite, recorder) {
  for (const file of SMOLLM2) {
    const name = `smollm2 ${file}`;
    const listing = await optional("/smollm2/greedy.json");
    if (listing === undefined) {
      if (recorder.wants(name)) {
        recorder.skip(name, "LENSLET_SMOLLM2 does not name the folder with SmolLM2");
      }
      continue;
    }
    const prompts = SuiteLanguageModel.prompts(listing, file).filter((prompt) => recorder.wants(`${name} ${prompt}`));
    if (prompts.length === 0) {
      continue;
    }
    let model;
    await recorder.run(`${name} loads`, async () => {
      model = suite.languageModel(await bytes(`/smollm2/${file}`));
    });
    if (!model) {
      continue;
    }
    for (const prompt of prompts) {
      // On a GPU that a processor plays, a token takes seconds.
      const most = device === "webgpu" ? 24 : 1000;
      const entry = await recorder.run(`${name} ${prompt}`, () =>
        model.follow(listing, file, prompt, most),
      );
      console.log(`${name} ${prompt}: ${entry.detail}`);
    }
    model.free();
  }
}
