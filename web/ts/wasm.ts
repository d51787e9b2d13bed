/**
 * The interface of the wasm module, as `web/src` exports it through wasm-bindgen. Nothing but the worker
 * talks to it.
 */

import { type Device, helperCount, type WasmVariant } from "./features.js";
import type { FromHelper, ToHelper } from "./helper.js";
import type { ModelFile } from "./model-files.js";
import type { Pixels } from "./picture.js";

/** A model in wasm memory, or on the GPU. */
export interface ModelHandle {
  device(): Device;
  /** The adapter's name, empty on WASM. */
  adapter(): string;
  /** Compiles what the first call would otherwise wait for. */
  warmUp(): Promise<void>;
  bytes(): MemoryUse;
  /** Frees everything, on the GPU too. The handle is dead afterwards. */
  dispose(): void;
}

/** A dual tower. */
export interface DualTowerHandle extends ModelHandle {
  dim(): number;
  fingerprint(): string;
  /** One vector per picture, end to end. */
  embedImages(pictures: Pixels[]): Promise<Float32Array>;
  embedTexts(texts: string[]): Promise<Float32Array>;
}

/** A captioner. */
export interface CaptionerHandle extends ModelHandle {
  caption(picture: Pixels, wishes: SentWishes): Promise<TextStreamHandle>;
}

/** An answerer. */
export interface AnswererHandle extends ModelHandle {
  ask(picture: Pixels, question: string, wishes: SentWishes): Promise<TextStreamHandle>;
  /** Frees what is kept of the last picture. */
  forget(): void;
}

/** A text generator. */
export interface TextGeneratorHandle extends ModelHandle {
  canChat(): boolean;
  complete(prompt: string, wishes: SentWishes): Promise<TextStreamHandle>;
  chat(messages: ChatMessage[], wishes: SentWishes): Promise<TextStreamHandle>;
}

/** A text while it is written. */
export interface TextStreamHandle {
  next(): Promise<WritingStep>;
  /** Ends it, behind a step that is under way; its memory is free afterwards. */
  close(): Promise<void>;
  free(): void;
}

/** What one step gave. */
export interface WritingStep {
  /** The next piece of text, or `null` at the end. */
  piece: string | null;
  /** The ids of the tokens that this step added. */
  tokens: ArrayLike<number>;
  promptTokens: number;
  completionTokens: number;
  /** Why the text ended, once it has. */
  finish: "stop" | "length" | null;
}

/** A message of a conversation. */
export interface ChatMessage {
  /** `"system"`, `"user"`, `"assistant"`, or what else the model's template knows. */
  role: string;
  content: string;
}

/** How to write. What is left out, the model's folder says. */
export interface WritingWishes {
  /** Tokens at most. */
  maxNewTokens?: number;
  /** Texts that end the text; they are not part of it. */
  stop?: string[];
  /** 0 always takes the likeliest token; above, chance takes part. */
  temperature?: number;
  /** Chance chooses among this many of the likeliest tokens; 0 is all. */
  topK?: number;
  /** Chance chooses among the likeliest tokens that together have this probability; 1 is all. */
  topP?: number;
  /** Above 1, tokens that were there already become less likely. */
  repetitionPenalty?: number;
  /** Makes chance repeatable. */
  seed?: number;
}

/** Wishes, and what of the text is there already: tokens of the same tokenizer, or words. */
export interface SentWishes extends WritingWishes {
  resumeTokens?: number[];
  resumeText?: string;
}

type Loader<Handle> = {
  load(files: ModelFile[], device: Device, onProgress: (fraction: number) => void): Promise<Handle>;
};

/** How much a model holds. */
export interface MemoryUse {
  /** Bytes in the wasm heap. */
  host: number;
  /** Bytes in GPU buffers. */
  device: number;
}

/** One hit of a search. */
export interface SearchHit {
  path: string;
  /** Cosine similarity. */
  score: number;
}

/** An exact top-k index in wasm memory. */
export interface IndexHandle {
  add(path: string, size: number, modified: number, vector: Float32Array): void;
  remove(path: string): boolean;
  has(path: string, size: number, modified: number): boolean;
  paths(): string[];
  search(vector: Float32Array, k: number): SearchHit[];
  toBytes(): Uint8Array<ArrayBuffer>;
  len(): number;
  free(): void;
}

/** What the module exports. */
export interface Wasm {
  /** How many helpers have come, in the module with threads. */
  helpersThere?(): number;
  DualTowerHandle: Loader<DualTowerHandle>;
  CaptionerHandle: Loader<CaptionerHandle>;
  AnswererHandle: Loader<AnswererHandle>;
  TextGeneratorHandle: Loader<TextGeneratorHandle>;
  IndexHandle: {
    create(fingerprint: string, model: string, dim: number): IndexHandle;
    fromBytes(bytes: Uint8Array, fingerprint: string): IndexHandle;
  };
}

/** The generated glue: the module's exports and the function that brings it up. */
type Glue = Wasm & {
  default(options: { module_or_path: WebAssembly.Module }): Promise<{ memory: WebAssembly.Memory }>;
};

/** The glue of the module with threads. */
type ThreadGlue = Glue & { expectHelpers(count: number): void };

/**
 * All glue files and binaries are named by literal `new URL(…, import.meta.url)`, which bundlers copy
 * as files. So no bundler needs a plugin or a setting, and only the chosen pair is downloaded.
 */
function addresses(variant: WasmVariant): { glue: URL; binary: URL } {
  switch (variant) {
    case "threads":
      return {
        glue: new URL("../pkg/lenslet_threads.js", import.meta.url),
        binary: new URL("../pkg/lenslet_threads.wasm", import.meta.url),
      };
    case "relaxed":
      return {
        glue: new URL("../pkg/lenslet_relaxed.js", import.meta.url),
        binary: new URL("../pkg/lenslet_relaxed.wasm", import.meta.url),
      };
    case "simd":
      return {
        glue: new URL("../pkg/lenslet_simd.js", import.meta.url),
        binary: new URL("../pkg/lenslet_simd.wasm", import.meta.url),
      };
  }
}

/** Fetches and starts the binary for this browser; without threads if it has no room for shared memory. */
export async function loadWasm(variant: WasmVariant): Promise<Wasm> {
  if (variant !== "threads") {
    const [exports, module] = await fetchWasm<Glue>(variant);
    await exports.default({ module_or_path: module });
    return exports;
  }
  const [exports, module, glue] = await fetchWasm<ThreadGlue>(variant);
  let memory: WebAssembly.Memory;
  try {
    ({ memory } = await exports.default({ module_or_path: module }));
  } catch (error) {
    if (error instanceof RangeError) {
      return loadWasm("relaxed");
    }
    throw error;
  }
  const starting = Array.from({ length: helperCount() }, () =>
    startHelper({ glue: glue.href, module, memory }),
  );
  const started = await Promise.all(starting);
  const helpers = started.filter((helper) => helper !== undefined);
  exports.expectHelpers(helpers.length);
  helpers.forEach((helper, serve) => {
    helper.postMessage({ serve } satisfies ToHelper);
  });
  return exports;
}

/** A worker that is ready to help, or nothing if it could not start: then the others do its work. */
function startHelper(join: ToHelper): Promise<Worker | undefined> {
  return new Promise((resolve) => {
    const helper = new Worker(new URL("./helper.js", import.meta.url), {
      type: "module",
      name: "lenslet-helper",
    });
    // What goes wrong there is told where the others notice it, and not to the page as well.
    helper.addEventListener("error", (event) => {
      event.preventDefault();
      resolve(undefined);
    });
    helper.addEventListener("message", ({ data }: MessageEvent<FromHelper>) => {
      resolve(data === "ready" ? helper : undefined);
    });
    helper.postMessage(join);
  });
}

async function fetchWasm<Exports>(
  variant: WasmVariant,
): Promise<[Exports, WebAssembly.Module, URL]> {
  const { glue, binary } = addresses(variant);
  const [exports, module] = await Promise.all([
    import(/* webpackIgnore: true */ /* @vite-ignore */ glue.href) as Promise<Exports>,
    compile(binary),
  ]);
  return [exports, module, glue];
}

/** Compiles while downloading where the server labels the file `application/wasm`, afterwards where not. */
async function compile(binary: URL): Promise<WebAssembly.Module> {
  const response = await fetch(binary);
  if (!response.ok) {
    throw new TypeError(`${binary.pathname}: the server answered ${response.status}`);
  }
  return response.headers.get("content-type")?.startsWith("application/wasm")
    ? WebAssembly.compileStreaming(response)
    : WebAssembly.compile(await response.arrayBuffer());
}
