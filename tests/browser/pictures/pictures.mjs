// Photographs from JPEG file to embedding the way a page takes them: through the npm package, its worker and
// the browser's own decoder, against what ONNX Runtime makes of the same files decoded by Pillow.

import { capabilities, loadDualTower } from "/package/dist/index.js";

import { answers } from "./answers.mjs";
import { captions } from "./captions.mjs";

/** Decoders round a JPEG's colours differently; the native test allows its decoder the same. */
const LEAST_COSINE = 0.998;

const parameters = new URLSearchParams(location.search);
const device = parameters.get("device") ?? "wasm";
/** A software WebGPU takes seconds a photograph; four tell whether the browser's pixels reach the device. */
const MOST = device === "webgpu" ? 4 : 12;
const filter = parameters.get("filter") ?? "";

globalThis.__lenslet_results = run();

async function run() {
  const cases = [
    ...(await modules()),
    ...(await photographs()),
    ...(await captions(device, filter)),
    ...(await answers(device, filter)),
  ];
  return { device, cases };
}

/** The module with threads is for isolated pages, and the only one that runs there. */
async function modules() {
  const name = "module";
  if (!name.includes(filter)) {
    return [];
  }
  const wanted = crossOriginIsolated && navigator.hardwareConcurrency > 1 ? "threads" : "relaxed";
  const found = (await capabilities()).wasm;
  return [{ name, ok: found === wanted, detail: `${found}, ${wanted} expected` }];
}

async function photographs() {
  const golden = await (await fetched("/goldens/photo-search-jpeg.json")).json();
  const tower = await loadDualTower(`/served/${golden.model}/`, { device, cache: false });
  try {
    const cases = [];
    for (const [n, picture] of golden.pictures.slice(0, MOST).entries()) {
      const name = `${golden.model} ${picture}`;
      if (name.includes(filter)) {
        cases.push(await compare(name, tower, picture, golden.embeddings[n]));
      }
    }
    const least = Math.min(...cases.map((one) => one.cosine ?? 0));
    console.log(`${cases.length} photographs on ${tower.device}: least cosine ${least.toFixed(6)}`);
    const threads = device === "wasm" ? (crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 2) : 1) : undefined;
    if (threads === undefined ? tower.threads !== undefined : !(tower.threads >= threads)) {
      throw new Error(`the package ran on ${tower.threads} threads, ${threads} expected`);
    }
    if (tower.device !== device) {
      throw new Error(`the package ran on ${tower.device} instead of ${device}`);
    }
    return cases;
  } finally {
    tower.dispose();
  }
}

async function compare(name, tower, picture, want) {
  try {
    // A File, as dropping one on a page or choosing one gives.
    const blob = await (await fetched(`/${picture}`)).blob();
    const file = new File([blob], picture, { type: blob.type });
    const [got] = await tower.embedImages([file]);
    const similar = cosine(got, want);
    return {
      name,
      // A NaN must fail too.
      ok: similar >= LEAST_COSINE,
      detail: `cosine ${similar.toFixed(6)}, at least ${LEAST_COSINE}`,
      cosine: similar,
    };
  } catch (error) {
    return { name, ok: false, detail: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url} answers ${response.status}`);
  }
  return response;
}

function cosine(a, b) {
  if (a.length !== b.length) {
    throw new Error(`the embedding has ${a.length} numbers instead of ${b.length}`);
  }
  let [dot, left, right] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    dot += a[i] * b[i];
    left += a[i] * a[i];
    right += b[i] * b[i];
  }
  return dot / Math.sqrt(left * right);
}
