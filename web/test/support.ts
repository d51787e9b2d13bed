/**
 * Stand-ins: a worker on the same thread, and a wasm module whose "model" maps a word to an axis.
 */

import { Answerer } from "../ts/answerer.js";
import { Captioner } from "../ts/captioner.js";
import { WorkerClient, type WorkerLike } from "../ts/client.js";
import { DualTower } from "../ts/dual-tower.js";
import { IndexError, LoadError, PictureError, RunError } from "../ts/errors.js";
import type { Device } from "../ts/features.js";
import { type Surroundings, WorkerHost } from "../ts/host.js";
import type { Offload } from "../ts/offload/offload.js";
import { MemoryFiles } from "../ts/private-files.js";
import type { FromWorker, ToWorker } from "../ts/protocol.js";
import { TextGenerator } from "../ts/text-generator.js";
import type {
  AnswererHandle,
  CaptionerHandle,
  ChatMessage,
  DualTowerHandle,
  IndexHandle,
  ModelHandle,
  SearchHit,
  SentWishes,
  TextGeneratorHandle,
  TextStreamHandle,
  Wasm,
  WritingStep,
} from "../ts/wasm.js";

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
  /** Steps of texts, and texts that are open. */
  steps: number;
  open: number;
  /** Pictures that answerers read, and what they were asked. */
  seen: number;
  questions: string[];
  /** What the writing calls asked for. */
  wishes: SentWishes[];
  /** Called before every step of a text; may throw. */
  beforeStep?: () => void | Promise<void>;
  /** Called before every embedding; may throw. */
  beforeEmbed?: () => void | Promise<void>;
  /** Called before a tower is made; may throw. */
  beforeLoad?: (device: Device) => void;
}

/** Controls that nobody has turned yet. */
export const controls = (): Controls => ({
  loads: [],
  embeds: 0,
  disposed: 0,
  freed: 0,
  steps: 0,
  open: 0,
  seen: 0,
  questions: [],
  wishes: [],
});

export function fakeWasm(controls: Controls, fingerprint: string): Wasm {
  class FakeModel implements ModelHandle {
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
    async warmUp(): Promise<void> {}
    bytes(): { host: number; device: number } {
      return { host: 10, device: 20 };
    }
    dispose(): void {
      controls.disposed += 1;
    }
  }

  class FakeTower extends FakeModel implements DualTowerHandle {
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
  }

  /** Each word of a text is one token and one piece. */
  class FakeStream implements TextStreamHandle {
    readonly #words: string[];
    readonly #most: number;
    #made = 0;
    #closed = false;
    constructor(words: string[], wishes: SentWishes) {
      controls.open += 1;
      controls.wishes.push(wishes);
      this.#words = words;
      this.#most = wishes.maxNewTokens ?? Number.POSITIVE_INFINITY;
      const { resumeTokens, resumeText } = wishes;
      while (resumeText?.startsWith(words.slice(0, this.#made + 1).join("")) && words[this.#made]) {
        this.#made += 1;
      }
      this.#made = resumeTokens?.length ?? this.#made;
    }
    async next(): Promise<WritingStep> {
      await controls.beforeStep?.();
      if (this.#closed) {
        throw new RunError("stream_closed", "this text has ended");
      }
      controls.steps += 1;
      const word = this.#made < this.#most ? this.#words[this.#made] : undefined;
      if (word !== undefined) {
        this.#made += 1;
      }
      const cut = this.#made < this.#words.length;
      return {
        piece: word ?? null,
        tokens: word === undefined ? [] : [this.#made],
        promptTokens: 1,
        completionTokens: this.#made,
        finish: word !== undefined ? null : cut ? "length" : "stop",
      };
    }
    async close(): Promise<void> {
      controls.open -= this.#closed ? 0 : 1;
      this.#closed = true;
    }
    free(): void {}
  }

  class FakeCaptioner extends FakeModel implements CaptionerHandle {
    async caption(
      { rgba }: { rgba: Uint8ClampedArray },
      wishes: SentWishes,
    ): Promise<TextStreamHandle> {
      await controls.beforeEmbed?.();
      return new FakeStream(["a ", WORDS[rgba[0] ?? 0] ?? ""], wishes);
    }
  }

  /** Keeps the last picture, as the runtime does. */
  class FakeAnswerer extends FakeModel implements AnswererHandle {
    #kept: number | undefined;
    async ask(
      { rgba }: { rgba: Uint8ClampedArray },
      question: string,
      wishes: SentWishes,
    ): Promise<TextStreamHandle> {
      await controls.beforeEmbed?.();
      controls.seen += this.#kept === rgba[0] ? 0 : 1;
      controls.questions.push(question);
      this.#kept = rgba[0];
      return new FakeStream(["it ", "is ", "a ", WORDS[rgba[0] ?? 0] ?? ""], wishes);
    }
    forget(): void {
      this.#kept = undefined;
    }
  }

  class FakeGenerator extends FakeModel implements TextGeneratorHandle {
    canChat(): boolean {
      return true;
    }
    async complete(prompt: string, wishes: SentWishes): Promise<TextStreamHandle> {
      await controls.beforeEmbed?.();
      return new FakeStream(prompt.split(/(?<= )/), wishes);
    }
    async chat(messages: ChatMessage[], wishes: SentWishes): Promise<TextStreamHandle> {
      return this.complete(
        messages.map(({ role, content }) => `${role}: ${content}`).join(" "),
        wishes,
      );
    }
  }

  /** Loads one of these, and notes where. */
  const loader = <Handle>(make: new (device: Device) => Handle) => ({
    async load(files: unknown[], device: Device, onProgress: (fraction: number) => void) {
      controls.beforeLoad?.(device);
      controls.loads.push(device);
      files.length = 0;
      onProgress(1);
      return new make(device);
    },
  });

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
    DualTowerHandle: loader(FakeTower),
    CaptionerHandle: loader(FakeCaptioner),
    AnswererHandle: loader(FakeAnswerer),
    TextGeneratorHandle: loader(FakeGenerator),
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
  load(device?: "auto" | Device, offload?: Offload): Promise<DualTower>;
  /** Loads the fake captioner: it says a word for each pixel's red, in two pieces. */
  loadCaptioner(device?: "auto" | Device, offload?: Offload): Promise<Captioner>;
  /** Loads the fake answerer: it names the pixel's red, in four pieces. */
  loadAnswerer(device?: "auto" | Device, offload?: Offload): Promise<Answerer>;
  /** Loads the fake text generator: it repeats its prompt's words. */
  loadGenerator(device?: "auto" | Device, offload?: Offload): Promise<TextGenerator>;
}

const FAKE = { folder: "https://x/", model: "fake", cache: false };

export function bench(
  options: { fingerprint?: string; store?: MemoryFiles; around?: Partial<Surroundings> } = {},
): Bench {
  const turned = controls();
  const store = options.store ?? new MemoryFiles();
  const wasm = fakeWasm(turned, options.fingerprint ?? "model-a");
  const around: Surroundings = {
    loadWasm: async () => wasm,
    wasmVariant: () => "simd",
    probeAdapter: async () => ({ name: "fake gpu", software: false, shaderF16: false }),
    openStore: async () => store,
    fetchModel: async () => [
      { name: "model", bytes: new Uint8Array(4) },
      { name: "tokenizer.json", bytes: new TextEncoder().encode("words") },
    ],
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
    controls: turned,
    client,
    store,
    async load(device = "auto", offload) {
      const info = await client.call("load", { ...FAKE, device });
      return new DualTower({ model: "fake", info, client, offload });
    },
    async loadCaptioner(device = "auto", offload) {
      const info = await client.call("loadCaptioner", { ...FAKE, device });
      return new Captioner({ model: "fake", info, client, offload });
    },
    async loadAnswerer(device = "auto", offload) {
      const info = await client.call("loadAnswerer", { ...FAKE, device });
      return new Answerer({ model: "fake", info, client, offload });
    },
    async loadGenerator(device = "auto", offload) {
      const info = await client.call("loadGenerator", { ...FAKE, device });
      return new TextGenerator({ model: "fake", info, client, offload });
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
