/**
 * The indexes that are open in a worker, and where they persist.
 */

import { IndexError, toWire } from "./errors.js";
import { type FileStore, MemoryFiles } from "./private-files.js";
import type { EntryKey, Identity, OnMismatch } from "./protocol.js";
import type { IndexHandle, SearchHit, Wasm } from "./wasm.js";

interface Open {
  name: string;
  handle: IndexHandle;
  /** Makes an empty index of the same model. */
  renew(): IndexHandle;
  changed: boolean;
  /** Ends when the last write to storage has ended: writes must not overtake one another. */
  written: Promise<unknown>;
}

/** Keeps the open indexes of one tower. */
export class IndexShelf {
  readonly #files: () => Promise<FileStore>;
  readonly #open = new Map<number, Open>();
  #nextId = 1;

  constructor(files: () => Promise<FileStore>) {
    this.#files = files;
  }

  /** Opens the stored index of that name, or starts an empty one. */
  async open(
    name: string,
    handles: Wasm["IndexHandle"],
    identity: Identity,
    onMismatch: OnMismatch,
  ): Promise<{ index: number; size: number; rebuilt: boolean }> {
    const renew = (): IndexHandle =>
      handles.create(identity.fingerprint, identity.model, identity.dim);
    const stored = await (await this.#files()).read(path(name));
    let handle: IndexHandle | undefined;
    if (stored) {
      try {
        handle = handles.fromBytes(stored, identity.fingerprint);
      } catch (error) {
        // A damaged file has nothing to lose; one of another model is the caller's to give up.
        const { kind, message } = toWire(error, "IndexError");
        if (kind === "index_fingerprint" && onMismatch === "error") {
          throw new IndexError(kind, `index "${name}": ${message}`);
        }
      }
    }
    const rebuilt = stored !== undefined && handle === undefined;
    const opened: Open = {
      name,
      handle: handle ?? renew(),
      renew,
      changed: rebuilt,
      written: Promise.resolve(),
    };
    const index = this.#nextId++;
    this.#open.set(index, opened);
    return { index, size: opened.handle.len(), rebuilt };
  }

  /** Positions of the entries that are absent, or present in another version. */
  missing(index: number, entries: readonly EntryKey[]): number[] {
    const { handle } = this.#get(index);
    const positions: number[] = [];
    entries.forEach(({ path, size, modified }, position) => {
      if (!handle.has(path, size, modified)) {
        positions.push(position);
      }
    });
    return positions;
  }

  /** Adds or replaces one entry; the index's size afterwards. */
  add(index: number, { path, size, modified }: EntryKey, vector: Float32Array): number {
    const open = this.#get(index);
    open.handle.add(path, size, modified, vector);
    open.changed = true;
    return open.handle.len();
  }

  remove(index: number, paths: readonly string[]): { removed: number; size: number } {
    const open = this.#get(index);
    const removed = paths.filter((path) => open.handle.remove(path)).length;
    open.changed ||= removed > 0;
    return { removed, size: open.handle.len() };
  }

  /** Empties the index, in storage too. */
  async clear(index: number): Promise<number> {
    const open = this.#get(index);
    open.handle.free();
    open.handle = open.renew();
    open.changed = true;
    await this.save(index);
    return 0;
  }

  paths(index: number): string[] {
    return this.#get(index).handle.paths();
  }

  search(index: number, vector: Float32Array, k: number): SearchHit[] {
    return this.#get(index).handle.search(vector, k);
  }

  /** Writes the index to storage if it changed; whether it will be there on the next visit. */
  async save(index: number): Promise<{ persistent: boolean }> {
    const open = this.#get(index);
    const files = await this.#files();
    const write = open.written.then(async () => {
      if (!open.changed) {
        return;
      }
      open.changed = false;
      try {
        await files.write(path(open.name), open.handle.toBytes());
      } catch (cause) {
        open.changed = true;
        throw new IndexError("index_storage", `index "${open.name}" could not be stored`, {
          cause,
        });
      }
    });
    open.written = write.catch(() => undefined);
    await write;
    return { persistent: !(files instanceof MemoryFiles) };
  }

  /** Stores what changed and frees the index. */
  async close(index: number): Promise<void> {
    const open = this.#get(index);
    try {
      await this.save(index);
    } finally {
      this.#open.delete(index);
      open.handle.free();
    }
  }

  /** Frees all indexes at once, unsaved. */
  dispose(): void {
    for (const open of this.#open.values()) {
      open.handle.free();
    }
    this.#open.clear();
  }

  #get(index: number): Open {
    const open = this.#open.get(index);
    if (!open) {
      throw new IndexError("index_closed", "this index has been closed");
    }
    return open;
  }
}

const path = (name: string): string => `indexes/${encodeURIComponent(name)}.idx`;
