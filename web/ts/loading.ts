/**
 * What all models have in common on the page: how they are loaded, each in a worker of its own.
 */

import { WorkerClient, type WorkerLike } from "./client.js";
import { LensletError, LoadError, RunError } from "./errors.js";
import type { Device } from "./features.js";
import { resolveModel } from "./model-url.js";
import type { LoadProgress } from "./progress.js";
import type { Calls, ModelInfo } from "./protocol.js";
import type { MemoryUse } from "./wasm.js";

/** Options of loading a model. */
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

/** The calls that load a model. */
type LoadCall = "load" | "loadCaptioner" | "loadGenerator";

/** A model that was loaded, and the worker that holds it. */
export interface LoadedModel<Info> {
  model: string;
  info: Info;
  client: WorkerClient;
}

function startWorker(): Worker {
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "lenslet" });
}

/** Starts a worker and has it load a model. */
export async function loadModel<Name extends LoadCall>(
  call: Name,
  model: string | URL,
  options: LoadOptions,
): Promise<LoadedModel<Calls[Name]["result"]>> {
  options.signal?.throwIfAborted();
  const folder = resolveModel(
    model,
    options.baseUrl === undefined ? {} : { base: options.baseUrl },
  );
  const client = new WorkerClient(createWorker(options.createWorker ?? startWorker));
  try {
    const info = await client.call(
      call,
      {
        folder: folder.url,
        model: folder.name,
        device: options.device ?? "auto",
        cache: options.cache ?? true,
        ...(options.variant !== undefined && { variant: options.variant }),
      },
      { signal: options.signal, onProgress: options.onProgress },
    );
    return { model: folder.name, info, client };
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

/** What every loaded model tells and can do. */
export abstract class Model {
  /** The model's name: the last part of its address. */
  readonly model: string;
  /** Where it runs. */
  readonly device: Device;
  /** The GPU in words; empty on WASM. */
  readonly adapter: string;
  /** Why `device: "auto"` went to WASM although there is a GPU. */
  readonly fallback: string | undefined;
  /** @internal */
  readonly client: WorkerClient;

  /** @internal */
  constructor({ model, info, client }: LoadedModel<ModelInfo>) {
    this.model = model;
    this.device = info.device;
    this.adapter = info.adapter;
    this.fallback = info.fallback;
    this.client = client;
  }

  /** How much memory the model holds, in the wasm heap and on the GPU. */
  memory(): Promise<MemoryUse> {
    return this.client.call("memory", {});
  }

  /** Frees everything: GPU buffers, wasm heap and worker. Open indexes of a tower close unsaved; texts end. */
  async dispose(): Promise<void> {
    try {
      await this.client.call("dispose", {});
    } catch {
      // A worker that is already gone has nothing left to free.
    }
    this.client.terminate(new RunError("disposed", "this model has been disposed of"));
  }
}
