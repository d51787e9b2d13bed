/**
 * Lenslet in the browser: find pictures by text, describe them, answer questions about them and write, on the device that holds them.
 *
 * ```ts
 * const clip = await loadDualTower("photo-search", { onProgress });
 * const index = await ImageIndex.open("my-photos", clip);
 * await index.add(files, { onProgress });
 * const hits = await index.search("a red bicycle", { k: 24 });
 *
 * const captioner = await loadCaptioner("emoji-captioner");
 * for await (const piece of captioner.stream(file)) show(piece);
 *
 * const answerer = await loadAnswerer("SmolVLM-256M-Instruct");
 * for await (const piece of answerer.stream(file, "What is this?")) show(piece);
 * ```
 *
 * @module
 */

export { Answerer, loadAnswerer } from "./answerer.js";
export { Captioner, loadCaptioner } from "./captioner.js";
export { DualTower, type EmbedOptions, loadDualTower } from "./dual-tower.js";
export {
  IndexError,
  isAbort,
  LensletError,
  LoadError,
  PictureError,
  RunError,
  UnsupportedError,
} from "./errors.js";
export { type Capabilities, capabilities, type Device, type WasmVariant } from "./features.js";
export {
  type AddOptions,
  type AddProgress,
  type AddReport,
  ImageIndex,
  type ImageItem,
  type OpenOptions,
  type SearchHits,
  type SearchOptions,
  type SkippedImage,
} from "./image-index.js";
export { type LoadOptions, Model } from "./loading.js";
export { Embedding } from "./offload/embedding.js";
export { Offload, type OffloadOptions } from "./offload/offload.js";
export type {
  Answered,
  AnsweredBy,
  Parts,
  Privacy,
  Quality,
  Reason,
  Work,
} from "./offload/policy.js";
export { ServerError, type ServerTrouble } from "./offload/server-error.js";
export type { ImageSource } from "./picture.js";
export type { LoadProgress, LoadStage } from "./progress.js";
export type { OnMismatch } from "./protocol.js";
export { loadTextGenerator, type Prompt, TextGenerator } from "./text-generator.js";
export { TextStream, type Usage, type WritingOptions, type Written } from "./text-stream.js";
export type { ChatMessage, MemoryUse, SearchHit, WritingWishes } from "./wasm.js";
