// onnxruntime-web's own build for WASM, from this origin only.

import { concrete, sample } from "./inputs.mjs";

const DIST = "/peer/onnxruntime-web/dist/";

export async function load(file, sizes, threads) {
  const ort = await import(`${DIST}ort.wasm.min.mjs`);
  ort.env.wasm.wasmPaths = new URL(DIST, location.href).href;
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  const feeds = {};
  for (const { name, type, shape } of session.inputMetadata) {
    const dims = concrete(shape, sizes);
    feeds[name] = new ort.Tensor(type, sample(type === "int64", dims), dims);
  }
  const [output] = session.outputNames;
  const run = async () => (await session.run(feeds))[output].data;
  return { facts: { module: "ort-wasm-simd-threaded", version: ort.env.versions.web }, run };
}
