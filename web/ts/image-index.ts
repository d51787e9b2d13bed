/**
 * A searchable, persistent collection of pictures.
 */

import type { WorkerClient } from "./client.js";
import type { DualTower } from "./dual-tower.js";
import { IndexError, type LensletError, PictureError, throwIfAborted } from "./errors.js";
import { Embedding } from "./offload/embedding.js";
import type { Answered } from "./offload/policy.js";
import { type ImageSource, sendable, sizeAsFile } from "./picture.js";
import type { EntryKey, OnMismatch, SentQuery } from "./protocol.js";
import type { SearchHit } from "./wasm.js";

/** A picture under a path of the caller's choosing. */
export interface ImageItem {
  path: string;
  /** The picture, or a function that fetches it; it is only called if the index lacks the picture. */
  blob: Blob | (() => Blob | Promise<Blob>);
  /** Bytes, and the time of the last change. A picture whose path, size and time are known is skipped. */
  size?: number;
  modified?: number;
}

/** How far {@link ImageIndex.add} has come. */
export interface AddProgress {
  /** Pictures dealt with, those that were already there included. */
  done: number;
  total: number;
  /** The picture that was just dealt with. */
  path?: string;
}

/** A picture that {@link ImageIndex.add} could not read. */
export interface SkippedImage {
  path: string;
  error: LensletError;
}

/** What {@link ImageIndex.add} did. */
export interface AddReport {
  added: number;
  unchanged: number;
  skipped: SkippedImage[];
}

/** Options of {@link ImageIndex.add}. */
export interface AddOptions {
  onProgress?: (progress: AddProgress) => void;
  /** Cancels between two pictures. What was added until then stays. */
  signal?: AbortSignal;
}

/** Options of {@link ImageIndex.search}. */
export interface SearchOptions {
  /** How many hits at most (24). */
  k?: number;
  signal?: AbortSignal;
}

/** What a search found, best first, and who computed the query's vector. */
export interface SearchHits extends Array<SearchHit>, Answered {}

/** Options of {@link ImageIndex.open}. */
export interface OpenOptions {
  /** What becomes of a stored index whose vectors another model made: an error (default), or it starts empty. */
  onMismatch?: OnMismatch;
}

/** Pictures on their way at once: one is computed while the next ones are fetched and decoded. */
const IN_FLIGHT = 3;

/** An interrupted visit loses at most this many pictures' work. */
const SAVE_EVERY = 64;

/** An index of pictures by one model, kept in the browser's private storage. */
export class ImageIndex {
  readonly name: string;
  /** The stored index was damaged, or cleared by `onMismatch: "clear"`, and has to be filled again. */
  readonly rebuilt: boolean;
  readonly #tower: DualTower;
  readonly #client: WorkerClient;
  readonly #index: number;
  #size: number;

  private constructor(
    name: string,
    tower: DualTower,
    opened: { index: number; size: number; rebuilt: boolean },
  ) {
    this.name = name;
    this.rebuilt = opened.rebuilt;
    this.#tower = tower;
    this.#client = tower.client;
    this.#index = opened.index;
    this.#size = opened.size;
  }

  /**
   * Opens the index `name`, or creates it. It belongs to `tower`'s model: one that another model made is an
   * `IndexError` of kind `"index_fingerprint"`, because vectors of different models must never mix.
   */
  static async open(
    name: string,
    tower: DualTower,
    { onMismatch = "error" }: OpenOptions = {},
  ): Promise<ImageIndex> {
    const { model, fingerprint, dim } = tower;
    const identity = { model, fingerprint, dim };
    const opened = await tower.client.call("openIndex", {
      name,
      onMismatch,
      // The worker of a model that is on the server alone has none to ask.
      ...(tower.local !== "ready" && { identity }),
    });
    return new ImageIndex(name, tower, opened);
  }

  /** How many pictures it holds. */
  get size(): number {
    return this.#size;
  }

  /**
   * Adds pictures. Known ones are skipped without being read, unreadable ones are skipped and reported, and
   * the result is stored.
   */
  async add(
    images: Iterable<File | ImageItem>,
    { onProgress, signal }: AddOptions = {},
  ): Promise<AddReport> {
    throwIfAborted(signal);
    const items = Array.from(images, toItem);
    const positions = await this.#client.call(
      "missing",
      { index: this.#index, entries: items.map(({ key }) => key) },
      { signal },
    );
    const work = positions.flatMap((position) => items[position] ?? []);
    const report: AddReport = { added: 0, unchanged: items.length - work.length, skipped: [] };
    let done = report.unchanged;
    onProgress?.({ done, total: items.length });

    let unsaved = 0;
    let failed = false;
    const next = work.values();
    const lane = async (): Promise<void> => {
      for (const item of next) {
        if (failed) {
          return;
        }
        const error = await this.#addOne(item, signal);
        done += 1;
        if (error) {
          report.skipped.push({ path: item.key.path, error });
        } else {
          report.added += 1;
          unsaved += 1;
        }
        onProgress?.({ done, total: items.length, path: item.key.path });
        if (unsaved >= SAVE_EVERY) {
          unsaved = 0;
          await this.save();
        }
      }
    };
    try {
      await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
    } catch (error) {
      failed = true; // The other lanes stop, too.
      throw error;
    } finally {
      if (report.added > 0) {
        await this.save();
      }
    }
    return report;
  }

  async #addOne(
    { key, blob }: PreparedItem,
    signal: AbortSignal | undefined,
  ): Promise<LensletError | undefined> {
    throwIfAborted(signal);
    try {
      const picture = typeof blob === "function" ? await fetchPicture(blob) : blob;
      const target = { index: this.#index, entry: key };
      const tower = this.#tower;
      const [{ size }] = await tower.answer({
        parts: { image: 1 },
        bytes: picture.size,
        misfit: tower.misfit(false),
        here: () => this.#client.call("add", { ...target, picture }, { signal }),
        there: async (server, model) => {
          const made = await tower.imageThere(server, model, picture, signal);
          const vector = tower.own(made, server, model);
          return this.#client.call("add", { ...target, vector }, { signal });
        },
      });
      this.#size = size;
      return undefined;
    } catch (error) {
      if (error instanceof PictureError) {
        return error;
      }
      throw error;
    }
  }

  /**
   * The `k` pictures nearest to a text, a picture or a vector of the same model, best first. A server that has another
   * model than the index is never asked; a vector of another model is an `IndexError`.
   */
  async search(
    query: string | ImageSource | Float32Array,
    { k = 24, signal }: SearchOptions = {},
  ): Promise<SearchHits> {
    const tower = this.#tower;
    const find = (sent: SentQuery, transfer: Transferable[] = []): Promise<SearchHit[]> =>
      this.#client.call("search", { index: this.#index, query: sent, k }, { signal, transfer });
    if (query instanceof Float32Array) {
      if (query instanceof Embedding && query.fingerprint !== tower.fingerprint) {
        const what = `the vector is of another model (${query.fingerprint}) than index "${this.name}"`;
        throw new IndexError("index_fingerprint", what);
      }
      const local = { answeredBy: "local", reason: "no_server" } as const;
      const answered = query instanceof Embedding ? query : local;
      return marked(await find({ vector: query }), answered);
    }
    const text = typeof query === "string" ? query : undefined;
    const [hits, answered] = await tower.answer({
      parts: text === undefined ? { image: 1 } : { text: 1 },
      bytes: typeof query === "string" ? query.length : sizeAsFile(query),
      misfit: tower.misfit(false),
      here: async () => {
        const { sent, transfer } = await toQuery(query);
        return find(sent, transfer);
      },
      there: async (server, model) => {
        const made =
          typeof query === "string"
            ? await server.embedTexts(model, [query], signal)
            : await tower.imageThere(server, model, query, signal);
        return find({ vector: tower.own(made, server, model) });
      },
    });
    return marked(hits, answered);
  }

  /** The paths of all pictures in the index. */
  paths(): Promise<string[]> {
    return this.#client.call("paths", { index: this.#index });
  }

  /** Removes pictures by path and stores the result; how many there were. */
  async remove(paths: string | Iterable<string>): Promise<number> {
    const list = typeof paths === "string" ? [paths] : [...paths];
    const { removed, size } = await this.#client.call("remove", {
      index: this.#index,
      paths: list,
    });
    this.#size = size;
    await this.save();
    return removed;
  }

  /** Removes everything, from storage too. */
  async clear(): Promise<void> {
    await this.#client.call("clear", { index: this.#index });
    this.#size = 0;
  }

  /** Stores the index; whether this browser will still have it on the next visit. */
  async save(): Promise<boolean> {
    const { persistent } = await this.#client.call("save", { index: this.#index });
    return persistent;
  }

  /** Stores the index and frees its memory. */
  async close(): Promise<void> {
    await this.#client.call("closeIndex", { index: this.#index });
  }
}

interface PreparedItem {
  key: EntryKey;
  blob: ImageItem["blob"];
}

/** A file's path is the one it has inside a chosen folder, else its name. */
function toItem(image: File | ImageItem): PreparedItem {
  if (typeof File === "function" && image instanceof File) {
    return {
      key: {
        path: image.webkitRelativePath || image.name,
        size: image.size,
        modified: image.lastModified,
      },
      blob: image,
    };
  }
  const { path, blob, size, modified } = image as ImageItem;
  const known = blob instanceof Blob ? blob : undefined;
  const file = typeof File === "function" && known instanceof File ? known : undefined;
  return {
    key: { path, size: size ?? known?.size ?? 0, modified: modified ?? file?.lastModified ?? 0 },
    blob,
  };
}

async function fetchPicture(fetchBlob: () => Blob | Promise<Blob>): Promise<Blob> {
  try {
    return await fetchBlob();
  } catch (cause) {
    throw new PictureError("image_unavailable", "the picture could not be fetched", { cause });
  }
}

const marked = (hits: SearchHit[], { answeredBy, reason }: Answered): SearchHits =>
  Object.assign(hits, { answeredBy, reason });

async function toQuery(
  query: string | ImageSource,
): Promise<{ sent: SentQuery; transfer: Transferable[] }> {
  if (typeof query === "string") {
    return { sent: { text: query }, transfer: [] };
  }
  const { picture, transfer } = await sendable(query);
  return { sent: { picture }, transfer };
}
