/**
 * The worker's end: holds one model, a tower with its open indexes or a writer with its
 * open streams, and answers requests.
 */

import { LensletError, LoadError, throwIfAborted, toWire } from "./errors.js";
import {
  type AdapterFacts,
  probeAdapter,
  requireWasmVariant,
  type WasmVariant,
} from "./features.js";
import { IndexShelf } from "./index-shelf.js";
import { type FetchContext, fetchModel, type ModelFile, type ModelKind } from "./model-files.js";
import { type Context, ModelSlot, type SlotNeeds } from "./model-slot.js";
import type { Work } from "./offload/policy.js";
import { decodePicture, type Pixels, type SentPicture } from "./picture.js";
import { type FileStore, openStore } from "./private-files.js";
import type {
  CallName,
  Calls,
  FromWorker,
  Identity,
  Request,
  SentQuery,
  ToWorker,
} from "./protocol.js";
import { type DualTowerHandle, loadWasm, type Wasm } from "./wasm.js";
import { WriterHost } from "./writer-host.js";

/** What the host needs from its surroundings; tests replace it. */
export interface Surroundings {
  loadWasm(variant: WasmVariant): Promise<Wasm>;
  wasmVariant(): WasmVariant;
  probeAdapter(): Promise<AdapterFacts | undefined>;
  openStore(): Promise<FileStore>;
  fetchModel(
    folder: string,
    kind: ModelKind,
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

type Handlers = {
  [Name in CallName]: (
    args: Calls[Name]["args"],
    context: Context,
  ) => Promise<Calls[Name]["result"]>;
};

/** Answers {@link ToWorker} messages through `post`. */
export class WorkerHost {
  readonly #post: (message: FromWorker, transfer: Transferable[]) => void;
  readonly #around: Surroundings;
  readonly #running = new Map<number, AbortController>();
  readonly #shelf: IndexShelf;
  #store: Promise<FileStore> | undefined;
  #wasm: Promise<Wasm> | undefined;
  readonly #tower: ModelSlot<DualTowerHandle>;
  readonly #writer: WriterHost;

  constructor(
    post: (message: FromWorker, transfer: Transferable[]) => void,
    around: Surroundings = BROWSER,
  ) {
    this.#post = post;
    this.#around = around;
    this.#shelf = new IndexShelf(() => this.#files());
    const needs: SlotNeeds = {
      checkBrowser: () => around.wasmVariant(),
      wasm: () => this.#module(),
      files: () => this.#files(),
      probeAdapter: () => around.probeAdapter(),
      fetchModel: (...which) => around.fetchModel(...which),
    };
    this.#tower = new ModelSlot(
      {
        kind: "dual-tower",
        open: ({ DualTowerHandle }, ...which) => DualTowerHandle.load(...which),
      },
      needs,
    );
    this.#writer = new WriterHost(needs);
  }

  /** Takes one message from the page. */
  receive(message: ToWorker): void {
    if ("cancel" in message) {
      const running = this.#running.get(message.cancel);
      if (running) {
        running.abort();
      } else {
        // The answer is on its way to a page that no longer waits: if it is a stream, nobody will ask for more.
        void this.#writer.end(message.cancel);
      }
      return;
    }
    void this.#answer(message);
  }

  async #answer(request: Request): Promise<void> {
    const { id, call } = request;
    const controller = new AbortController();
    this.#running.set(id, controller);
    const context: Context = {
      id,
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
      this.#post(
        { id, error: toWire(error, call.startsWith("load") ? "LoadError" : "RunError") },
        [],
      );
    } finally {
      this.#running.delete(id);
    }
  }

  readonly #handlers: Handlers = {
    load: async (args, context) => {
      const info = await this.#tower.load(args, context);
      const tower = this.#tower.current;
      const probed = args.probe ? await this.#probe(context.signal) : undefined;
      const known = { dim: tower.dim(), fingerprint: tower.fingerprint() };
      return { ...info, ...known, ...(probed && { probed }) };
    },
    loadCaptioner: (args, context) => this.#writer.loadCaptioner(args, context),
    loadAnswerer: (args, context) => this.#writer.loadAnswerer(args, context),
    loadGenerator: (args, context) => this.#writer.loadGenerator(args, context),
    caption: async ({ picture, wishes }, context) => {
      const pixels = await this.#around.decodePicture(picture);
      return this.#writer.caption(pixels, wishes, context);
    },
    ask: async ({ picture, question, wishes }, context) => {
      const pixels = await this.#around.decodePicture(picture);
      return this.#writer.ask(pixels, question, wishes, context);
    },
    forget: (_, { signal }) => this.#writer.forget(signal),
    write: ({ prompt, wishes }, context) => this.#writer.write(prompt, wishes, context),
    nextPiece: ({ stream }, { signal }) => this.#writer.next(stream, signal),
    endStream: ({ stream }) => this.#writer.end(stream),
    embedImages: ({ pictures }, { signal }) => this.#embedPictures(pictures, signal),
    embedTexts: ({ texts }, { signal }) =>
      this.#tower.run((tower) => tower.embedTexts(texts), { signal, urgent: true }),
    memory: async () => (this.#writer.current ?? this.#tower.current).bytes(),
    openIndex: async ({ name, onMismatch, identity }) => {
      const { IndexHandle } = await this.#module();
      return this.#shelf.open(name, IndexHandle, identity ?? this.#identity(), onMismatch);
    },
    missing: async ({ index, entries }) => this.#shelf.missing(index, entries),
    add: async ({ index, entry, ...of }, { signal }) => {
      const vector = "vector" in of ? of.vector : await this.#embedPictures([of.picture], signal);
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
      this.#tower.dispose();
      await this.#writer.dispose();
      return undefined;
    },
  };

  #identity(): Identity {
    const tower = this.#tower.current;
    return { fingerprint: tower.fingerprint(), model: this.#tower.model, dim: tower.dim() };
  }

  /** What a picture and a text take: the policy that weighs a server against this device wants to know. */
  async #probe(signal: AbortSignal): Promise<Partial<Record<Work, number>>> {
    const side = 32;
    const rgba = new Uint8ClampedArray(side * side * 4).fill(128);
    const timed = async (use: (tower: DualTowerHandle) => Promise<unknown>): Promise<number> => {
      const started = performance.now();
      await this.#tower.run(use, { signal, urgent: false });
      return performance.now() - started;
    };
    return {
      text: await timed((tower) => tower.embedTexts(["a"])),
      image: await timed((tower) => tower.embedImages([{ width: side, height: side, rgba }])),
    };
  }

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

  /** One picture at a time: a vector must not depend on which pictures happened to share its batch. */
  async #embedPictures(
    pictures: readonly SentPicture[],
    signal: AbortSignal,
  ): Promise<Float32Array> {
    const dim = this.#tower.current.dim();
    const vectors = new Float32Array(pictures.length * dim);
    for (const [i, picture] of pictures.entries()) {
      throwIfAborted(signal);
      const pixels = await this.#around.decodePicture(picture);
      const embed = (tower: DualTowerHandle): Promise<Float32Array> => tower.embedImages([pixels]);
      vectors.set(await this.#tower.run(embed, { signal, urgent: false }), i * dim);
    }
    return vectors;
  }

  async #vectorOf(query: SentQuery, signal: AbortSignal): Promise<Float32Array> {
    if ("vector" in query) {
      return query.vector;
    }
    if ("text" in query) {
      return this.#tower.run((tower) => tower.embedTexts([query.text]), { signal, urgent: true });
    }
    const pixels = await this.#around.decodePicture(query.picture);
    return this.#tower.run((tower) => tower.embedImages([pixels]), { signal, urgent: true });
  }
}
