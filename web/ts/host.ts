/**
 * The worker's end: holds one tower and its open indexes, and answers requests.
 */

import { isAbort, LensletError, LoadError, RunError, throwIfAborted, toWire } from "./errors.js";
import {
  type AdapterFacts,
  chooseDevice,
  type Device,
  probeAdapter,
  requireWasmVariant,
  type WasmVariant,
} from "./features.js";
import { IndexShelf } from "./index-shelf.js";
import { type FetchContext, fetchModel, type ModelFile } from "./model-files.js";
import { decodePicture, type Pixels, type SentPicture } from "./picture.js";
import { type FileStore, openStore } from "./private-files.js";
import { LoadMeter, type LoadProgress } from "./progress.js";
import type {
  CallName,
  Calls,
  FromWorker,
  Request,
  SentQuery,
  ToWorker,
  TowerInfo,
} from "./protocol.js";
import { TaskQueue } from "./queue.js";
import { type DualTowerHandle, loadWasm, type Wasm } from "./wasm.js";

/** What the host needs from its surroundings; tests replace it. */
export interface Surroundings {
  loadWasm(variant: WasmVariant): Promise<Wasm>;
  wasmVariant(): WasmVariant;
  probeAdapter(): Promise<AdapterFacts | undefined>;
  openStore(): Promise<FileStore>;
  fetchModel(
    folder: string,
    variant: string | undefined,
    context: FetchContext,
  ): Promise<ModelFile[]>;
  decodePicture(picture: SentPicture): Promise<Pixels>;
}

/** The surroundings of a real worker. */
export const BROWSER: Surroundings = {
  loadWasm,
  wasmVariant: requireWasmVariant,
  probeAdapter,
  openStore,
  fetchModel,
  decodePicture,
};

/** What a handler gets besides its arguments. */
interface Context {
  signal: AbortSignal;
  report(progress: LoadProgress): void;
}

type Handlers = {
  [Name in CallName]: (
    args: Calls[Name]["args"],
    context: Context,
  ) => Promise<Calls[Name]["result"]>;
};

type LoadArgs = Calls["load"]["args"];

/** Answers {@link ToWorker} messages through `post`. */
export class WorkerHost {
  readonly #post: (message: FromWorker, transfer: Transferable[]) => void;
  readonly #around: Surroundings;
  readonly #queue = new TaskQueue();
  readonly #running = new Map<number, AbortController>();
  readonly #shelf: IndexShelf;
  #store: Promise<FileStore> | undefined;
  #wasm: Promise<Wasm> | undefined;
  #tower: DualTowerHandle | undefined;
  #loaded: LoadArgs | undefined;

  constructor(
    post: (message: FromWorker, transfer: Transferable[]) => void,
    around: Surroundings = BROWSER,
  ) {
    this.#post = post;
    this.#around = around;
    this.#shelf = new IndexShelf(() => this.#files());
  }

  /** Takes one message from the page. */
  receive(message: ToWorker): void {
    if ("cancel" in message) {
      this.#running.get(message.cancel)?.abort();
      return;
    }
    void this.#answer(message);
  }

  async #answer(request: Request): Promise<void> {
    const { id, call } = request;
    const controller = new AbortController();
    this.#running.set(id, controller);
    const context: Context = {
      signal: controller.signal,
      report: (progress) => this.#post({ id, progress }, []),
    };
    try {
      // `request.args` belongs to `request.call`; the union cannot be narrowed through an index.
      const handler = this.#handlers[call] as (
        args: Request["args"],
        context: Context,
      ) => Promise<Calls[CallName]["result"]>;
      const result = await handler(request.args, context);
      const transfer = result instanceof Float32Array ? [result.buffer as ArrayBuffer] : [];
      this.#post({ id, result }, transfer);
    } catch (error) {
      this.#post({ id, error: toWire(error, call === "load" ? "LoadError" : "RunError") }, []);
    } finally {
      this.#running.delete(id);
    }
  }

  readonly #handlers: Handlers = {
    load: async (args, context) => {
      const info = await this.#load(args, context);
      this.#loaded = args;
      return info;
    },
    embedImages: ({ pictures }, { signal }) => this.#embedPictures(pictures, signal),
    embedTexts: ({ texts }, { signal }) =>
      this.#run((tower) => tower.embedTexts(texts), signal, true),
    memory: async () => this.#current().bytes(),
    openIndex: async ({ name, onMismatch }) => {
      const tower = this.#current();
      const { IndexHandle } = await this.#module();
      const model = this.#loaded?.model ?? "";
      const identity = { fingerprint: tower.fingerprint(), model, dim: tower.dim() };
      return this.#shelf.open(name, IndexHandle, identity, onMismatch);
    },
    missing: async ({ index, entries }) => this.#shelf.missing(index, entries),
    add: async ({ index, entry, picture }, { signal }) => {
      const vector = await this.#embedPictures([picture], signal);
      return { size: this.#shelf.add(index, entry, vector) };
    },
    remove: async ({ index, paths }) => this.#shelf.remove(index, paths),
    clear: ({ index }) => this.#shelf.clear(index).then((size) => ({ size })),
    paths: async ({ index }) => this.#shelf.paths(index),
    search: async ({ index, query, k }, { signal }) => {
      const vector = await this.#vectorOf(query, signal);
      return this.#shelf.search(index, vector, k);
    },
    save: ({ index }) => this.#shelf.save(index),
    closeIndex: async ({ index }) => {
      await this.#shelf.close(index);
      return undefined;
    },
    dispose: async () => {
      this.#shelf.dispose();
      this.#tower?.dispose();
      this.#tower = undefined;
      this.#loaded = undefined;
      return undefined;
    },
  };

  #files(): Promise<FileStore> {
    this.#store ??= this.#around.openStore();
    return this.#store;
  }

  #module(): Promise<Wasm> {
    this.#wasm ??= this.#around.loadWasm(this.#around.wasmVariant()).catch((cause: unknown) => {
      this.#wasm = undefined;
      throw cause instanceof LensletError
        ? cause
        : new LoadError("wasm", "Lenslet's WebAssembly file could not be loaded", { cause });
    });
    return this.#wasm;
  }

  #current(): DualTowerHandle {
    if (!this.#tower) {
      throw new RunError("disposed", "this tower has been disposed of");
    }
    return this.#tower;
  }

  async #load(args: LoadArgs, { signal, report }: Context): Promise<TowerInfo> {
    this.#around.wasmVariant(); // An unsupported browser should not download a model first.
    const meter = new LoadMeter(report);
    const adapter = args.device === "wasm" ? undefined : await this.#around.probeAdapter();
    const device = chooseDevice(args.device, adapter);
    const wasm = this.#module();
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
  ): Promise<TowerInfo> {
    const store = args.cache ? await this.#files() : undefined;
    const [files, wasm] = await Promise.all([
      this.#around.fetchModel(args.folder, args.variant, { meter, signal, store }),
      this.#module(),
    ]);
    throwIfAborted(signal);
    meter.enter("prepare");
    // The runtime takes the files out of the array one by one, so that each is held once.
    const tower = await wasm.DualTowerHandle.load(files, device, (fraction) =>
      meter.enter("prepare", fraction),
    );
    try {
      throwIfAborted(signal);
      meter.enter("compile");
      await tower.warmUp();
      throwIfAborted(signal);
    } catch (error) {
      tower.dispose();
      throw error;
    }
    this.#tower?.dispose();
    this.#tower = tower;
    meter.enter("ready", 1);
    return {
      device: tower.device(),
      adapter: device === "webgpu" ? adapter?.name || tower.adapter() : "",
      dim: tower.dim(),
      fingerprint: tower.fingerprint(),
    };
  }

  /** One picture at a time: a vector must not depend on which pictures happened to share its batch. */
  async #embedPictures(
    pictures: readonly SentPicture[],
    signal: AbortSignal,
  ): Promise<Float32Array> {
    const dim = this.#current().dim();
    const vectors = new Float32Array(pictures.length * dim);
    for (const [i, picture] of pictures.entries()) {
      throwIfAborted(signal);
      const pixels = await this.#around.decodePicture(picture);
      vectors.set(await this.#run((tower) => tower.embedImages([pixels]), signal, false), i * dim);
    }
    return vectors;
  }

  async #vectorOf(query: SentQuery, signal: AbortSignal): Promise<Float32Array> {
    if ("vector" in query) {
      return query.vector;
    }
    if ("text" in query) {
      return this.#run((tower) => tower.embedTexts([query.text]), signal, true);
    }
    const pixels = await this.#around.decodePicture(query.picture);
    return this.#run((tower) => tower.embedImages([pixels]), signal, true);
  }

  /**
   * Runs the tower in its turn. If the GPU failed or was lost, the tower is built again from the cache, once:
   * on the GPU if the caller insisted on it, else where it works now.
   */
  #run<T>(
    use: (tower: DualTowerHandle) => Promise<T>,
    signal: AbortSignal,
    urgent: boolean,
  ): Promise<T> {
    const task = async (): Promise<T> => {
      try {
        return await use(this.#current());
      } catch (error) {
        if (!this.#loaded || !GPU_FAILURES.includes(toWire(error).kind)) {
          throw error;
        }
        await this.#load(this.#loaded, { signal, report: () => undefined });
        return use(this.#current());
      }
    };
    return this.#queue.run(task, { signal, urgent });
  }
}

/** Kinds of errors after which a device has to be opened anew. */
const GPU_FAILURES = ["device_lost", "device"];

/** Whether another device may do better: the download and the files are not to blame. */
function isGpuTrouble(error: unknown): error is Error {
  const { name, kind } = toWire(error, "RunError");
  const blameless = ["network", "http", "not_found", "wrong_size", "wrong_hash", "bad_manifest"];
  return error instanceof Error && name !== "AbortError" && !blameless.includes(kind);
}
