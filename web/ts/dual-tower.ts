/**
 * A model that puts pictures and texts into one space.
 */

import { WorkerClient, type WorkerLike } from "./client.js";
import { LensletError, LoadError, RunError } from "./errors.js";
import type { Device } from "./features.js";
import { resolveModel } from "./model-url.js";
import { type ImageSource, sendable } from "./picture.js";
import type { LoadProgress } from "./progress.js";
import type { TowerInfo } from "./protocol.js";
import type { MemoryUse } from "./wasm.js";

/** Options of {@link loadDualTower}. */
export interface LoadOptions {
  /**
   * Where to run: `"auto"` (default) takes WebGPU if a hardware adapter is there and works, else WASM;
   * `"webgpu"` and `"wasm"` insist.
   */
  device?: "auto" | Device;
  /** Called as loading goes on. */
  onProgress?: (progress: LoadProgress) => void;
  /** Cancels loading. */
  signal?: AbortSignal;
  /** Keep verified files for the next visit (default). Needs a `lenslet.json` in the folder. */
  cache?: boolean;
  /** Where bare model names resolve; by default `models/` beside the page. */
  baseUrl?: string | URL;
  /** Which precision to take where a folder has several, for example `"quantized"` or `"fp16"`. */
  variant?: string;
  /** Starts Lenslet's worker some other way, for bundlers and policies that need it. */
  createWorker?: () => Worker;
}

/** Options of the embedding calls. */
export interface EmbedOptions {
  /** Cancels between two pictures. */
  signal?: AbortSignal;
}

function startWorker(): Worker {
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "lenslet" });
}

/**
 * Loads a dual tower. `model` is a name (`"photo-search"`, looked up under `baseUrl`) or the address of a
 * model's folder. Everything heavy happens in a Web Worker of its own.
 */
export async function loadDualTower(
  model: string | URL,
  options: LoadOptions = {},
): Promise<DualTower> {
  options.signal?.throwIfAborted();
  const folder = resolveModel(
    model,
    options.baseUrl === undefined ? {} : { base: options.baseUrl },
  );
  const client = new WorkerClient(createWorker(options.createWorker ?? startWorker));
  try {
    const info = await client.call(
      "load",
      {
        folder: folder.url,
        model: folder.name,
        device: options.device ?? "auto",
        cache: options.cache ?? true,
        ...(options.variant !== undefined && { variant: options.variant }),
      },
      { signal: options.signal, onProgress: options.onProgress },
    );
    return new DualTower(folder.name, info, client);
  } catch (error) {
    client.terminate(error instanceof Error ? error : new LensletError("unknown", String(error)));
    throw error;
  }
}

function createWorker(create: () => Worker): WorkerLike {
  try {
    return create();
  } catch (cause) {
    throw new LoadError("worker", "Lenslet's worker could not be started", { cause });
  }
}

/** A loaded dual tower. Make one with {@link loadDualTower}; free it with {@link DualTower.dispose}. */
export class DualTower {
  /** The model's name: the last part of its address. */
  readonly model: string;
  /** Where it runs. */
  readonly device: Device;
  /** The GPU in words; empty on WASM. */
  readonly adapter: string;
  /** The length of its vectors. */
  readonly dim: number;
  /** Identifies model and preprocessing: vectors compare only if this is equal. */
  readonly fingerprint: string;
  /** Why `device: "auto"` went to WASM although there is a GPU. */
  readonly fallback: string | undefined;
  /** @internal */
  readonly client: WorkerClient;

  /** @internal */
  constructor(model: string, info: TowerInfo, client: WorkerClient) {
    this.model = model;
    this.device = info.device;
    this.adapter = info.adapter;
    this.dim = info.dim;
    this.fingerprint = info.fingerprint;
    this.fallback = info.fallback;
    this.client = client;
  }

  /** One L2-normalised vector per picture. A picture that cannot be read fails the call. */
  async embedImages(
    sources: readonly ImageSource[],
    { signal }: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    const sent = await Promise.all(sources.map(sendable));
    const pictures = sent.map(({ picture }) => picture);
    const transfer = sent.flatMap((one) => one.transfer);
    return this.#split(await this.client.call("embedImages", { pictures }, { signal, transfer }));
  }

  /** One L2-normalised vector per text. Texts beyond the model's context are truncated. */
  async embedTexts(
    texts: readonly string[],
    { signal }: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    return this.#split(await this.client.call("embedTexts", { texts: [...texts] }, { signal }));
  }

  /** How much memory the tower holds, in the wasm heap and on the GPU. */
  memory(): Promise<MemoryUse> {
    return this.client.call("memory", {});
  }

  /** Frees everything: GPU buffers, wasm heap and worker. Open indexes of this tower close unsaved. */
  async dispose(): Promise<void> {
    try {
      await this.client.call("dispose", {});
    } catch {
      // A worker that is already gone has nothing left to free.
    }
    this.client.terminate(new RunError("disposed", "this tower has been disposed of"));
  }

  #split(packed: Float32Array): Float32Array[] {
    const count = packed.length / this.dim;
    return Array.from({ length: count }, (_, i) => packed.slice(i * this.dim, (i + 1) * this.dim));
  }
}
