/**
 * What this browser can do, found out by asking it, never by its name.
 */

import { UnsupportedError } from "./errors.js";

/** Which of the wasm binaries a browser gets; `"threads"` on pages that are cross-origin isolated. */
export type WasmVariant = "threads" | "relaxed" | "simd";

/** Where a model can run. */
export type Device = "webgpu" | "wasm";

/** What {@link capabilities} found. */
export interface Capabilities {
  /** A WebGPU adapter exists. It may be a software one: see {@link Capabilities.softwareAdapter}. */
  webgpu: boolean;
  /** The adapter in words, for example `"nvidia ampere"`. */
  adapter?: string;
  /** The adapter is emulated on the CPU; `device: "auto"` then prefers WASM, which is faster. */
  softwareAdapter: boolean;
  /** The adapter computes in half precision. */
  shaderF16: boolean;
  /** The wasm binary for this browser; absent if it has no WebAssembly SIMD at all. */
  wasm?: WasmVariant;
  /** The browser offers a private file system in which models and indexes persist. */
  persistent: boolean;
}

/**
 * Two modules of one function each. The first returns `i8x16.splat(0)`, the second
 * `i32x4.relaxed_dot_i8x16_i7x16_add_s` of three zero vectors: a browser that validates it runs the binary
 * with the 128-bit integer dot product.
 */
const HEADER = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const TYPE_VOID_TO_V128 = [1, 5, 1, 0x60, 0, 1, 0x7b];
const ONE_FUNCTION = [3, 2, 1, 0];
const ZERO_VECTOR = [0x41, 0, 0xfd, 15];
const SIMD_PROBE = wasmModule(ZERO_VECTOR);
const RELAXED_PROBE = wasmModule([
  ...ZERO_VECTOR,
  ...ZERO_VECTOR,
  ...ZERO_VECTOR,
  0xfd,
  0x93,
  0x02,
]);

/** A module whose only function runs `code`. */
function wasmModule(code: readonly number[]): Uint8Array<ArrayBuffer> {
  const body = [0, ...code, 0x0b];
  const section = [10, body.length + 2, 1, body.length, ...body];
  return new Uint8Array([...HEADER, ...TYPE_VOID_TO_V128, ...ONE_FUNCTION, ...section]);
}

/** The part of `WebAssembly` that detection needs, so that tests can stand in for a browser. */
export type Validate = (bytes: Uint8Array<ArrayBuffer>) => boolean;

/** The best wasm binary that this browser accepts, or nothing. */
export function wasmVariant(validate?: Validate, scope?: ThreadScope): WasmVariant | undefined {
  const accepts =
    validate ??
    (typeof WebAssembly === "object" ? (bytes) => WebAssembly.validate(bytes) : () => false);
  if (accepts(RELAXED_PROBE)) {
    return helperCount(scope) > 0 ? "threads" : "relaxed";
  }
  return accepts(SIMD_PROBE) ? "simd" : undefined;
}

/** What tells whether workers can share memory, so that tests can stand in for a browser. */
export interface ThreadScope {
  readonly crossOriginIsolated?: boolean;
  readonly Atomics?: object;
  readonly navigator?: { readonly hardwareConcurrency?: number };
}

/** Workers that help at most. */
const MOST_HELPERS = 7;

/**
 * How many workers should help with one model; none where they cannot share memory, or where nobody could be told
 * without waiting that they are done (`Atomics.waitAsync`).
 *
 * Half of the cores compute: as a rule two of them are one that works on two things at a time.
 */
export function helperCount(scope: ThreadScope = globalThis as ThreadScope): number {
  const cores = scope.navigator?.hardwareConcurrency ?? 1;
  const able = scope.crossOriginIsolated === true && "waitAsync" in (scope.Atomics ?? {});
  if (!able || cores < 2) {
    return 0;
  }
  return Math.min(Math.max(Math.ceil(cores / 2), 2) - 1, MOST_HELPERS);
}

/** Like {@link wasmVariant}, but an unsupported browser is an error that a person can act on. */
export function requireWasmVariant(validate?: Validate): WasmVariant {
  const variant = wasmVariant(validate);
  if (variant === undefined) {
    throw new UnsupportedError(
      "no_simd",
      "This browser has no WebAssembly SIMD, which Lenslet needs on every device. " +
        "Chrome and Edge 91, Firefox 89 and Safari 16.4, or newer, have it.",
    );
  }
  return variant;
}

/** What is known of a WebGPU adapter before a device is made from it. */
export interface AdapterFacts {
  name: string;
  software: boolean;
  shaderF16: boolean;
}

/** Older browsers keep the flag on the adapter, newer ones in its info. */
type AdapterWithLegacyFlag = GPUAdapter & { readonly isFallbackAdapter?: boolean };

/** Asks for the adapter that a model would run on. Works on a page and in a worker. */
export async function probeAdapter(
  gpu: GPU | undefined = globalThis.navigator?.gpu,
): Promise<AdapterFacts | undefined> {
  const adapter: AdapterWithLegacyFlag | null | undefined = await gpu
    ?.requestAdapter({ powerPreference: "high-performance" })
    .catch(() => null);
  if (!adapter) {
    return undefined;
  }
  return {
    name: adapterName(adapter.info),
    software: adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false,
    shaderF16: adapter.features.has("shader-f16"),
  };
}

/** The most telling of the words that a browser reveals about an adapter. */
export function adapterName(
  info:
    | Partial<Pick<GPUAdapterInfo, "vendor" | "architecture" | "device" | "description">>
    | undefined,
): string {
  if (info?.description) {
    return info.description;
  }
  return [info?.vendor, info?.architecture || info?.device].filter(Boolean).join(" ") || "GPU";
}

/** The device that `wanted` means in a browser with this adapter. */
export function chooseDevice(wanted: "auto" | Device, adapter: AdapterFacts | undefined): Device {
  if (wanted === "webgpu" && adapter === undefined) {
    throw new UnsupportedError(
      "no_webgpu",
      'This browser offers no WebGPU adapter. Use device "auto" or "wasm".',
    );
  }
  if (wanted === "auto") {
    return adapter !== undefined && !adapter.software ? "webgpu" : "wasm";
  }
  return wanted;
}

/** Whether this origin has a private file system to keep things in. */
export function hasPrivateFiles(): boolean {
  return typeof globalThis.navigator?.storage?.getDirectory === "function";
}

/** What this browser can do. Loads nothing and keeps nothing. */
export async function capabilities(): Promise<Capabilities> {
  const adapter = await probeAdapter();
  const variant = wasmVariant();
  return {
    webgpu: adapter !== undefined,
    ...(adapter && { adapter: adapter.name }),
    softwareAdapter: adapter?.software ?? false,
    shaderF16: adapter?.shaderF16 ?? false,
    ...(variant && { wasm: variant }),
    persistent: hasPrivateFiles(),
  };
}
