/**
 * What all models have in common on the page: how they are loaded, each in a worker of its own.
 */

import { WorkerClient, type WorkerLike } from "./client.js";
import { isAbort, LensletError, LoadError, RunError, toWire } from "./errors.js";
import type { Device } from "./features.js";
import { resolveModel } from "./model-url.js";
import { Meter } from "./offload/meter.js";
import {
  type Job,
  nobody,
  type Offload,
  type OffloadOptions,
  offloadOf,
} from "./offload/offload.js";
import { type Answered, type LocalState, largestModel } from "./offload/policy.js";
import type { ServedModel } from "./offload/server.js";
import type { LoadProgress } from "./progress.js";
import type { Calls, ModelInfo } from "./protocol.js";
import type { MemoryUse } from "./wasm.js";

/** Options of loading a model. */
export interface LoadOptions {
  /**
   * Where to run: `"auto"` (default) takes WebGPU if a hardware adapter is there and works, else WASM;
   * `"webgpu"` and `"wasm"` insist, and `"server"` loads no model here: all answers are the server's.
   */
  device?: "auto" | Device | "server";
  /**
   * A server that may answer in place of the local model, if the device is `"auto"` or `"server"`. Nothing is sent unless
   * its `privacy` is `"allow"`. Models can share an {@link Offload}.
   */
  offload?: Offload | OffloadOptions;
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
type LoadCall = "load" | "loadCaptioner" | "loadAnswerer" | "loadGenerator";

/** A model that was loaded, and the worker that holds it. */
export interface LoadedModel<Info> {
  model: string;
  info: Info;
  client: WorkerClient;
  offload?: Offload | undefined;
  /** Why the model is not on this device, if it is not. */
  absent?: Exclude<LocalState, "ready">;
}

function startWorker(): Worker {
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "lenslet" });
}

/** How a model is when a server has it and this device does not. */
export type Stand<Info> = (served: ServedModel, url: string) => Info | undefined;

/**
 * Starts a worker and has it load a model. Where that is not to be, or fails, and a server has the model, `standIn` says what
 * is known of it by what the server says.
 */
export async function loadModel<Name extends LoadCall>(
  call: Name,
  model: string | URL,
  options: LoadOptions,
  standIn: Stand<Calls[Name]["result"]>,
): Promise<LoadedModel<Calls[Name]["result"]>> {
  options.signal?.throwIfAborted();
  const { device = "auto" } = options;
  const insists = device === "webgpu" || device === "wasm";
  const offload = insists ? undefined : offloadOf(options.offload);
  const folder = resolveModel(
    model,
    options.baseUrl === undefined ? {} : { base: options.baseUrl },
  );
  const client = new WorkerClient(createWorker(options.createWorker ?? startWorker));
  const remotely = async (absent: Exclude<LocalState, "ready">) => {
    const asked = { model: folder.name, parts: {}, bytes: 0, local: absent };
    const { remote, reason } = (await offload?.place(asked)) ?? { reason: "no_server" as const };
    const info = remote && standIn(remote.served, remote.server.url);
    return info ? { model: folder.name, info, client, offload, absent } : reason;
  };
  try {
    if (device === "server") {
      const loaded = await remotely("local_failed");
      if (typeof loaded === "string") {
        throw nobody(loaded);
      }
      return loaded;
    }
    const asks = offload?.privacy === "allow";
    const most = asks ? largestModel(deviceMemory()) : undefined;
    const info = await client.call(
      call,
      {
        folder: folder.url,
        model: folder.name,
        device,
        cache: options.cache ?? true,
        ...(options.variant !== undefined && { variant: options.variant }),
        ...(most !== undefined && { mostBytes: most }),
        ...(asks && { probe: true }),
      },
      { signal: options.signal, onProgress: options.onProgress },
    );
    offload?.times(folder.name).tellLocal(info.probed ?? {});
    return { model: folder.name, info, client, offload };
  } catch (error) {
    if (!isAbort(error) && !options.signal?.aborted && device !== "server") {
      const loaded = await remotely(isMemory(error) ? "memory" : "local_failed");
      if (typeof loaded !== "string") {
        return loaded;
      }
    }
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

/** GiB of memory, where the browser says so. */
function deviceMemory(): number | undefined {
  const { deviceMemory } = (globalThis.navigator ?? {}) as { deviceMemory?: number };
  return deviceMemory;
}

/** Whether there was not enough memory. */
function isMemory(error: unknown): boolean {
  const { kind, message } = toWire(error);
  return kind === "memory" || /out of memory|memory allocation|allocation failed/i.test(message);
}

/** What every loaded model tells and can do. */
export abstract class Model {
  /** The model's name: the last part of its address. */
  readonly model: string;
  /** Where it runs; `"server"` if it is not on this device at all. */
  readonly device: Device | "server";
  /** The GPU in words, or the server's address; empty on WASM. */
  readonly adapter: string;
  /** How many threads compute on WASM: one, but on pages that are cross-origin isolated; `undefined` elsewhere. */
  readonly threads: number | undefined;
  /** Why `device: "auto"` went to WASM although there is a GPU. */
  readonly fallback: string | undefined;
  /** The server that may answer in its place, if there is one. */
  readonly offload: Offload | undefined;
  /** @internal */
  readonly client: WorkerClient;
  /** @internal */
  readonly local: LocalState;
  /** @internal */
  readonly meter: Meter;

  /** @internal */
  constructor({ model, info, client, offload, absent }: LoadedModel<ModelInfo>) {
    this.model = model;
    this.device = info.device;
    this.adapter = info.adapter;
    this.threads = info.threads;
    this.fallback = info.fallback;
    this.client = client;
    this.offload = offload;
    this.local = absent ?? "ready";
    this.meter = new Meter(offload?.times(model));
  }

  /** @internal Runs a call wherever it goes. */
  async answer<T>(job: Omit<Job<T>, "model" | "local">): Promise<[T, Answered]> {
    if (!this.offload) {
      return [await job.here(), { answeredBy: "local", reason: "no_server" }];
    }
    return this.offload.run({ ...job, model: this.model, local: this.local }, this.meter);
  }

  /** How much memory the model holds on this device, in the wasm heap and on the GPU. */
  async memory(): Promise<MemoryUse> {
    return this.local !== "ready" ? { host: 0, device: 0 } : this.client.call("memory", {});
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
