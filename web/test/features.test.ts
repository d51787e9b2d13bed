import assert from "node:assert/strict";
import { test } from "node:test";
import { UnsupportedError } from "../ts/errors.js";
import {
  adapterName,
  chooseDevice,
  helperCount,
  probeAdapter,
  requireWasmVariant,
  wasmVariant,
} from "../ts/features.js";

test("this engine has SIMD, so both probes are well-formed modules", () => {
  assert.ok(["relaxed", "simd"].includes(requireWasmVariant()));
});

test("the probes differ by the relaxed instruction only", () => {
  const seen: number[] = [];
  wasmVariant((bytes) => {
    seen.push(bytes.length);
    return false;
  });
  assert.equal(seen.length, 2);
  assert.ok((seen[0] ?? 0) > (seen[1] ?? 0));
});

test("relaxed is preferred, plain SIMD is second, neither is an error that says what to do", () => {
  assert.equal(
    wasmVariant(() => true),
    "relaxed",
  );
  let calls = 0;
  assert.equal(
    wasmVariant(() => ++calls > 1),
    "simd",
  );
  assert.throws(
    () => requireWasmVariant(() => false),
    (error) =>
      error instanceof UnsupportedError && error.kind === "no_simd" && /Safari/.test(error.message),
  );
});

test("threads are for isolated pages on more than one core", () => {
  const isolated = (hardwareConcurrency: number) => ({
    crossOriginIsolated: true,
    Atomics: { waitAsync() {} },
    navigator: { hardwareConcurrency },
  });
  assert.deepEqual(
    [1, 2, 4, 5, 8, 64].map((cores) => helperCount(isolated(cores))),
    [0, 1, 1, 2, 3, 7],
  );
  assert.equal(helperCount({ ...isolated(8), crossOriginIsolated: false }), 0);
  assert.equal(helperCount({ ...isolated(8), Atomics: {} }), 0);
  assert.equal(helperCount({}), 0);
  assert.equal(
    wasmVariant(() => true, isolated(8)),
    "threads",
  );
  let calls = 0;
  assert.equal(
    wasmVariant(() => ++calls > 1, isolated(8)),
    "simd",
  );
});

const hardware = { name: "nvidia", software: false, shaderF16: true };
const software = { name: "SwiftShader", software: true, shaderF16: false };

test("auto takes a hardware GPU and avoids an emulated one", () => {
  assert.equal(chooseDevice("auto", hardware), "webgpu");
  assert.equal(chooseDevice("auto", software), "wasm");
  assert.equal(chooseDevice("auto", undefined), "wasm");
});

test("an explicit device is obeyed or refused, never replaced", () => {
  assert.equal(chooseDevice("webgpu", software), "webgpu");
  assert.equal(chooseDevice("wasm", hardware), "wasm");
  assert.throws(
    () => chooseDevice("webgpu", undefined),
    (error) => error instanceof UnsupportedError && error.kind === "no_webgpu",
  );
});

function gpu(adapter: Record<string, unknown> | null): GPU {
  return { requestAdapter: async () => adapter } as unknown as GPU;
}

test("the fallback flag is read where old and new browsers keep it", async () => {
  const features = new Set<string>();
  const modern = await probeAdapter(gpu({ features, info: { isFallbackAdapter: true } }));
  assert.equal(modern?.software, true);
  const old = await probeAdapter(gpu({ features, info: {}, isFallbackAdapter: true }));
  assert.equal(old?.software, true);
  const real = await probeAdapter(
    gpu({ features: new Set(["shader-f16"]), info: { vendor: "apple", architecture: "metal-3" } }),
  );
  assert.deepEqual(real, { name: "apple metal-3", software: false, shaderF16: true });
  assert.equal(await probeAdapter(gpu(null)), undefined);
});

test("an adapter always has a name", () => {
  assert.equal(adapterName({ description: "Radeon 780M", vendor: "amd" }), "Radeon 780M");
  assert.equal(
    adapterName({ vendor: "intel", architecture: "", device: "0x46a6" }),
    "intel 0x46a6",
  );
  assert.equal(adapterName(undefined), "GPU");
});
