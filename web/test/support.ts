/**
 * Stand-ins: a worker on the same thread, and a wasm module whose "model" maps a word to an axis.
 */

import { WorkerClient, type WorkerLike } from "../ts/client.js";
import { DualTower } from "../ts/dual-tower.js";
import { IndexError, LoadError, PictureError } from "../ts/errors.js";
import type { Device } from "../ts/features.js";
import { type Surroundings, WorkerHost } from "../ts/host.js";
import { MemoryFiles } from "../ts/private-files.js";
import type { FromWorker, ToWorker } from "../ts/protocol.js";
import type { DualTowerHandle, IndexHandle, SearchHit, Wasm } from "../ts/wasm.js";

/** The words that the fake model knows; a picture's first pixel says which of them it shows. */
export const WORDS = ["cat", "dog", "rocket", "coffee"];

const axis = (position: number): Float32Array =>
  Float32Array.from(WORDS, (_, i) => (i === position ? 1 : 0));

/** What tests look at and turn. */
export interface Controls {
  loads: Device[];
  embeds: number;
  disposed: number;
  freed: number;
  /** Called before every embedding; may throw. */
  beforeEmbed?: () => void | Promise<void>;
  /** Called before a tower is made; may throw. */
  beforeLoad?: (device: Device) => void;
}

export function fakeWasm(controls: Controls, fingerprint: string): Wasm {
  class FakeTower implements DualTowerHandle {
    readonly #device: Device;
    constructor(device: Device) {
      this.#device = device;
    }
    device(): Device {
      return this.#device;
    }
    adapter(): string {
      return "fake";
    }
    dim(): number {
      return WORDS.length;
    }
    fingerprint(): string {
      return fingerprint;
    }
    async embedImages(pictures: { rgba: Uint8ClampedArray }[]): Promise<Float32Array> {
      await controls.beforeEmbed?.();
      controls.embeds += 1;
      return Float32Array.from(pictures.flatMap(({ rgba }) => Array.from(axis(rgba[0] ?? 0))));
    }
    async embedTexts(texts: string[]): Promise<Float32Array> {
      await controls.beforeEmbed?.();
      controls.embeds += 1;
      return Float32Array.from(texts.flatMap((text) => Array.from(axis(WORDS.indexOf(text)))));
    }
    async warmUp(): Promise<void> {}
    bytes(): { host: number; device: number } {
      return { host: 10, device: 20 };
    }
    dispose(): void {
      controls.disposed += 1;
    }
  }

  class FakeIndex implements IndexHandle {
    readonly #entries: Map<string, { size: number; modified: number; vector: number[] }>;
    constructor(entries: [string, { size: number; modified: number; vector: number[] }][] = []) {
      this.#entries = new Map(entries);
    }
    add(path: string, size: number, modified: number, vector: Float32Array): void {
      this.#entries.set(path, { size, modified, vector: Array.from(vector) });
    }
    remove(path: string): boolean {
      return this.#entries.delete(path);
    }
    has(path: string, size: number, modified: number): boolean {
      const entry = this.#entries.get(path);
      return entry?.size === size && entry.modified === modified;
    }
    paths(): string[] {
      return [...this.#entries.keys()];
    }
    search(vector: Float32Array, k: number): SearchHit[] {
      return [...this.#entries]
        .map(([path, entry]) => ({
          path,
          score: entry.vector.reduce((sum, value, i) => sum + value * (vector[i] ?? 0), 0),
        }))
        .sort((a, b) => b.score - a.score)
        .slice(0, k);
    }
    toBytes(): Uint8Array<ArrayBuffer> {
      return new TextEncoder().encode(JSON.stringify({ fingerprint, entries: [...this.#entries] }));
    }
    len(): number {
      return this.#entries.size;
    }
    free(): void {
      controls.freed += 1;
    }
  }

  return {
    DualTowerHandle: {
      async load(files, device, onProgress) {
        controls.beforeLoad?.(device);
        controls.loads.push(device);
        files.length = 0;
        onProgress(1);
        return new FakeTower(device);
      },
    },
    IndexHandle: {
      create: () => new FakeIndex(),
      fromBytes(bytes, expected) {
        let stored: { fingerprint: string; entries: ConstructorParameters<typeof FakeIndex>[0] };
        try {
          stored = JSON.parse(new TextDecoder().decode(bytes));
        } catch {
          throw new IndexError("index_truncated", "the file ends early");
        }
        if (stored.fingerprint !== expected) {
          throw new IndexError("index_fingerprint", "the index is of another model");
        }
        return new FakeIndex(stored.entries);
      },
    },
  };
}

/** Everything a test needs of one fake worker. */
export interface Bench {
  controls: Controls;
  client: WorkerClient;
  store: MemoryFiles;
  /** Loads the fake model. */
  load(device?: "auto" | Device): Promise<DualTower>;
}

export function bench(
  options: { fingerprint?: string; store?: MemoryFiles; around?: Partial<Surroundings> } = {},
): Bench {
  const controls: Controls = { loads: [], embeds: 0, disposed: 0, freed: 0 };
  const store = options.store ?? new MemoryFiles();
  const wasm = fakeWasm(controls, options.fingerprint ?? "model-a");
  const around: Surroundings = {
    loadWasm: async () => wasm,
    wasmVariant: () => "simd",
    probeAdapter: async () => ({ name: "fake gpu", software: false, shaderF16: false }),
    openStore: async () => store,
    fetchModel: async () => [{ name: "model", bytes: new Uint8Array(4) }],
    decodePicture: async (picture) => {
      const text = picture instanceof Blob ? await picture.text() : "";
      if (!WORDS.includes(text)) {
        throw new PictureError("image_corrupt", "not a picture");
      }
      return { width: 1, height: 1, rgba: Uint8ClampedArray.of(WORDS.indexOf(text), 0, 0, 255) };
    },
    ...options.around,
  };
  const client = new WorkerClient(new LoopbackWorker(around));
  return {
    controls,
    client,
    store,
    async load(device = "auto") {
      const info = await client.call("load", {
        folder: "https://x/",
        model: "fake",
        device,
        cache: false,
      });
      return new DualTower("fake", info, client);
    },
  };
}

/** A `Worker` whose two ends share a thread; messages are cloned and delivered later, as in a browser. */
export class LoopbackWorker implements WorkerLike {
  readonly #host: WorkerHost;
  readonly #listeners: ((event: MessageEvent<FromWorker>) => void)[] = [];
  readonly #errors: ((event: Event) => void)[] = [];
  #ended = false;

  constructor(around: Surroundings) {
    this.#host = new WorkerHost((message) => {
      const data = structuredClone(message);
      this.#later(() => {
        for (const listener of this.#listeners) {
          listener({ data } as MessageEvent<FromWorker>);
        }
      });
    }, around);
  }

  postMessage(message: ToWorker): void {
    this.#later(() => this.#host.receive(message));
  }

  terminate(): void {
    this.#ended = true;
  }

  addEventListener(
    type: "message" | "error" | "messageerror",
    listener: ((event: MessageEvent<FromWorker>) => void) | ((event: Event) => void),
  ): void {
    if (type === "message") {
      this.#listeners.push(listener as (event: MessageEvent<FromWorker>) => void);
    } else if (type === "error") {
      this.#errors.push(listener as (event: Event) => void);
    }
  }

  /** As when the worker's script cannot be loaded. */
  crash(message: string): void {
    for (const listener of this.#errors) {
      listener(Object.assign(new Event("error"), { message }));
    }
  }

  #later(act: () => void): void {
    setImmediate(() => {
      if (!this.#ended) {
        act();
      }
    });
  }
}

/** The error of a GPU that went away. */
export const gpuFailure = (): LoadError => new LoadError("gpu", "the device could not be made");
