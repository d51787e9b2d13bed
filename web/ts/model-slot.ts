/**
 * The one model that a worker holds: fetched, built where it works, and built again when its GPU is lost.
 */

import { isAbort, RunError, throwIfAborted, toWire } from "./errors.js";
import { type AdapterFacts, chooseDevice, type Device } from "./features.js";
import type { FetchContext, ModelFile, ModelKind } from "./model-files.js";
import type { FileStore } from "./private-files.js";
import { LoadMeter, type LoadProgress } from "./progress.js";
import type { LoadArgs, ModelInfo } from "./protocol.js";
import { TaskQueue } from "./queue.js";
import { sha256 } from "./sha256.js";
import type { ModelHandle, Wasm } from "./wasm.js";

/** What a call is accompanied by. */
export interface Context {
  /** The request's number. */
  id: number;
  signal: AbortSignal;
  report(progress: LoadProgress): void;
}

/** What the slot needs from its worker. */
export interface SlotNeeds {
  /** Throws if this browser cannot run the module. */
  checkBrowser(): void;
  wasm(): Promise<Wasm>;
  files(): Promise<FileStore>;
  probeAdapter(): Promise<AdapterFacts | undefined>;
  fetchModel(
    folder: string,
    kind: ModelKind,
    variant: string | undefined,
    context: FetchContext,
  ): Promise<ModelFile[]>;
}

/** How a kind of model is made. */
export interface SlotPlan<Handle extends ModelHandle> {
  kind: ModelKind;
  open(
    wasm: Wasm,
    files: ModelFile[],
    device: Device,
    onProgress: (fraction: number) => void,
  ): Promise<Handle>;
}

/** Holds a model and takes turns in using it. */
export class ModelSlot<Handle extends ModelHandle> {
  readonly #plan: SlotPlan<Handle>;
  readonly #needs: SlotNeeds;
  readonly #queue = new TaskQueue();
  #handle: Handle | undefined;
  #loaded: LoadArgs | undefined;
  #tokenizer = "";

  constructor(plan: SlotPlan<Handle>, needs: SlotNeeds) {
    this.#plan = plan;
    this.#needs = needs;
  }

  /** The name by which the model was loaded. */
  get model(): string {
    return this.#loaded?.model ?? "";
  }

  /** SHA-256 of the model's `tokenizer.json`; empty if it has none. */
  get tokenizer(): string {
    return this.#tokenizer;
  }

  /** The model. */
  get current(): Handle {
    if (!this.#handle) {
      throw new RunError("disposed", "this model has been disposed of");
    }
    return this.#handle;
  }

  /** Fetches and builds a model, in place of the one before. */
  async load(args: LoadArgs, context: Context): Promise<ModelInfo> {
    const info = await this.#load(args, context.signal, context.report);
    this.#loaded = args;
    return info;
  }

  /** Frees the model. */
  dispose(): void {
    this.#handle?.dispose();
    this.#handle = undefined;
    this.#loaded = undefined;
  }

  /**
   * Uses the model in its turn. If the GPU failed or was lost, the model is built again from the cache, once:
   * on the GPU if the caller insisted on it, else where it works now.
   */
  run<T>(
    use: (handle: Handle) => Promise<T>,
    { signal, urgent }: { signal: AbortSignal; urgent: boolean },
  ): Promise<T> {
    const task = async (): Promise<T> => {
      try {
        return await use(this.current);
      } catch (error) {
        if (!this.#loaded || !isGpuFailure(error)) {
          throw error;
        }
        await this.#load(this.#loaded, signal, () => undefined);
        return use(this.current);
      }
    };
    return this.#queue.run(task, { signal, urgent });
  }

  /** A step of something that was begun on the model, in its turn; it cannot be repeated on another. */
  step<T>(use: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return this.#queue.run(use, { signal });
  }

  async #load(args: LoadArgs, signal: AbortSignal, report: Context["report"]): Promise<ModelInfo> {
    this.#needs.checkBrowser(); // An unsupported browser should not download a model first.
    const meter = new LoadMeter(report);
    const adapter = args.device === "wasm" ? undefined : await this.#needs.probeAdapter();
    const device = chooseDevice(args.device, adapter);
    const wasm = this.#needs.wasm();
    wasm.catch(() => undefined); // Awaited in `#build`; a failed download must not leave it unhandled.
    try {
      return await this.#build(args, device, adapter, meter, signal);
    } catch (error) {
      if (args.device !== "auto" || device !== "webgpu" || isAbort(error) || !isGpuTrouble(error)) {
        throw error;
      }
      const info = await this.#build(args, "wasm", undefined, meter, signal);
      return { ...info, fallback: error.message };
    }
  }

  async #build(
    args: LoadArgs,
    device: Device,
    adapter: AdapterFacts | undefined,
    meter: LoadMeter,
    signal: AbortSignal,
  ): Promise<ModelInfo> {
    const { kind, open } = this.#plan;
    const store = args.cache ? await this.#needs.files() : undefined;
    const [files, wasm] = await Promise.all([
      this.#needs.fetchModel(args.folder, kind, args.variant, {
        meter,
        signal,
        store,
        mostBytes: args.mostBytes,
      }),
      this.#needs.wasm(),
    ]);
    const tokenizer = files.find(({ name }) => name === "tokenizer.json");
    this.#tokenizer = tokenizer && kind !== "dual-tower" ? await sha256(tokenizer.bytes) : "";
    throwIfAborted(signal);
    meter.enter("prepare");
    // The runtime takes the files out of the array one by one, so that each is held once.
    const handle = await open(wasm, files, device, (fraction) => meter.enter("prepare", fraction));
    try {
      throwIfAborted(signal);
      meter.enter("compile");
      await handle.warmUp();
      throwIfAborted(signal);
    } catch (error) {
      handle.dispose();
      throw error;
    }
    this.#handle?.dispose();
    this.#handle = handle;
    meter.enter("ready", 1);
    return {
      device: handle.device(),
      adapter: device === "webgpu" ? adapter?.name || handle.adapter() : "",
      ...(device === "wasm" && { threads: 1 + (wasm.helpersThere?.() ?? 0) }),
    };
  }
}

/** Whether a device has to be opened anew. */
export function isGpuFailure(error: unknown): boolean {
  return ["device_lost", "device"].includes(toWire(error).kind);
}

/** Whether another device may do better: the download and the files are not to blame. */
function isGpuTrouble(error: unknown): error is Error {
  const { name, kind } = toWire(error, "RunError");
  const blameless = ["network", "http", "not_found", "wrong_size", "wrong_hash", "bad_manifest"];
  return error instanceof Error && name !== "AbortError" && !blameless.includes(kind);
}
