/**
 * The messages between the page and its worker. Requests carry an id; every request is answered exactly once
 * under that id, after any number of progress messages.
 */

import type { WireError } from "./errors.js";
import type { Device } from "./features.js";
import type { Work } from "./offload/policy.js";
import type { SentPicture } from "./picture.js";
import type { LoadProgress } from "./progress.js";
import type { ChatMessage, MemoryUse, SearchHit, SentWishes, WritingStep } from "./wasm.js";

/** What is known of any loaded model. */
export interface ModelInfo {
  device: Device | "server";
  /** The GPU's name; empty on WASM. */
  adapter: string;
  /** How many threads compute on WASM. */
  threads?: number;
  /** Why `device: "auto"` did not use the GPU although there is one. */
  fallback?: string;
  /** What a first run took, in milliseconds, where {@link LoadArgs.probe} asked for one. */
  probed?: Partial<Record<Work, number>>;
}

/** What is known of a loaded tower. */
export interface TowerInfo extends ModelInfo {
  dim: number;
  fingerprint: string;
}

/** What is known of a loaded model that writes. */
export interface WriterInfo extends ModelInfo {
  /** SHA-256 of its `tokenizer.json`: another model's tokens mean the same where this is equal. */
  tokenizer: string;
}

/** What is known of a loaded text generator. */
export interface GeneratorInfo extends WriterInfo {
  /** Whether the model's folder has a chat template. */
  canChat: boolean;
}

/** Which model to load, and where. */
export interface LoadArgs {
  folder: string;
  model: string;
  device: "auto" | Device;
  cache: boolean;
  variant?: string;
  /** Files of a larger model in all are not fetched. */
  mostBytes?: number;
  /** Time a first run. */
  probe?: boolean;
}

/** What to write about, in one of two forms. */
export type SentPrompt = { text: string } | { messages: ChatMessage[] };

/** How an index remembers a picture, to recognise it unchanged. */
export interface EntryKey {
  path: string;
  size: number;
  modified: number;
}

/** What to do with a stored index of another model. */
export type OnMismatch = "error" | "clear";

/** A picture, or the vector of one. */
export type SentVector = { picture: SentPicture } | { vector: Float32Array };

/** What vectors of one model have in common. */
export interface Identity {
  fingerprint: string;
  /** The model's name, for messages. */
  model: string;
  dim: number;
}

/** A search in one of three forms. */
export type SentQuery = { text: string } | { picture: SentPicture } | { vector: Float32Array };

/** Every request by its name, with its arguments and its answer. */
export interface Calls {
  load: { args: LoadArgs; result: TowerInfo };
  embedImages: { args: { pictures: SentPicture[] }; result: Float32Array };
  embedTexts: { args: { texts: string[] }; result: Float32Array };
  memory: { args: Record<never, never>; result: MemoryUse };
  openIndex: {
    /** `identity` stands in for the model, where none is loaded. */
    args: { name: string; onMismatch: OnMismatch; identity?: Identity };
    result: { index: number; size: number; rebuilt: boolean };
  };
  /** Positions of the entries that the index lacks or holds in another version. */
  missing: { args: { index: number; entries: EntryKey[] }; result: number[] };
  /** Adds a picture, or one's vector. */
  add: { args: { index: number; entry: EntryKey } & SentVector; result: { size: number } };
  remove: { args: { index: number; paths: string[] }; result: { removed: number; size: number } };
  clear: { args: { index: number }; result: { size: number } };
  paths: { args: { index: number }; result: string[] };
  search: { args: { index: number; query: SentQuery; k: number }; result: SearchHit[] };
  save: { args: { index: number }; result: { persistent: boolean } };
  closeIndex: { args: { index: number }; result: undefined };
  loadCaptioner: { args: LoadArgs; result: WriterInfo };
  loadAnswerer: { args: LoadArgs; result: WriterInfo };
  loadGenerator: { args: LoadArgs; result: GeneratorInfo };
  /** Begins a caption, and gives the number of its stream. */
  caption: { args: { picture: SentPicture; wishes: SentWishes }; result: { stream: number } };
  /** Begins the answer to a question about a picture, and gives the number of its stream. */
  ask: {
    args: { picture: SentPicture; question: string; wishes: SentWishes };
    result: { stream: number };
  };
  /** Frees what an answerer keeps of the last picture. */
  forget: { args: Record<never, never>; result: undefined };
  /** Begins a text, and gives the number of its stream. */
  write: { args: { prompt: SentPrompt; wishes: SentWishes }; result: { stream: number } };
  /** The next piece of a stream. One without a piece is the last. */
  nextPiece: { args: { stream: number }; result: WritingStep };
  /** Ends a stream early; its memory is free when the answer comes. */
  endStream: { args: { stream: number }; result: undefined };
  dispose: { args: Record<never, never>; result: undefined };
}

/** The name of a request. */
export type CallName = keyof Calls;

/** A request on its way to the worker. */
export type Request = {
  [Name in CallName]: { id: number; call: Name; args: Calls[Name]["args"] };
}[CallName];

/** Anything that goes to the worker. */
export type ToWorker = Request | { cancel: number };

/** Anything that comes from the worker. */
export type FromWorker =
  | { id: number; progress: LoadProgress }
  | { id: number; result: Calls[CallName]["result"] }
  | { id: number; error: WireError };
