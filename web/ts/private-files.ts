/**
 * The origin private file system as a flat-looking store of byte files, for use in a worker.
 */

/** Where models and indexes persist. Every method may reject; callers decide whether that matters. */
export interface FileStore {
  /** The file's bytes, or nothing if there is no such file. */
  read(path: string): Promise<Uint8Array<ArrayBuffer> | undefined>;
  write(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  remove(path: string): Promise<void>;
}

/** What `createSyncAccessHandle` returns; the DOM typings know it in workers only. */
interface SyncAccessHandle {
  truncate(size: number): void;
  write(bytes: Uint8Array, options?: { at: number }): number;
  flush(): void;
  close(): void;
}

type WritableFileHandle = Omit<FileSystemFileHandle, "createWritable"> & {
  createWritable?: FileSystemFileHandle["createWritable"];
  createSyncAccessHandle?: () => Promise<SyncAccessHandle>;
};

const ROOT = "lenslet";

/** A {@link FileStore} in the origin private file system. */
export class PrivateFiles implements FileStore {
  async read(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const handle = await this.#handle(path, false);
    if (!handle) {
      return undefined;
    }
    const file = await handle.getFile();
    return new Uint8Array(await file.arrayBuffer());
  }

  /**
   * Replaces the file. `createWritable` swaps the new content in at the end, so an interrupted write leaves
   * the old file; where a browser lacks it (Safari before 26) the file is written in place.
   */
  async write(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const handle: WritableFileHandle | undefined = await this.#handle(path, true);
    if (handle?.createWritable) {
      const stream = await handle.createWritable();
      await stream.write(bytes);
      await stream.close();
      return;
    }
    const access = await handle?.createSyncAccessHandle?.();
    if (!access) {
      throw new Error("this browser cannot write to its private file system");
    }
    try {
      access.truncate(0);
      access.write(bytes, { at: 0 });
      access.flush();
    } finally {
      access.close();
    }
  }

  async remove(path: string): Promise<void> {
    const { folders, file } = split(path);
    const directory = await this.#directory(folders, false);
    await directory?.removeEntry(file).catch(ignoreMissing);
  }

  async #handle(path: string, create: boolean): Promise<FileSystemFileHandle | undefined> {
    const { folders, file } = split(path);
    const directory = await this.#directory(folders, create);
    return directory?.getFileHandle(file, { create }).catch(ignoreMissing);
  }

  async #directory(
    folders: readonly string[],
    create: boolean,
  ): Promise<FileSystemDirectoryHandle | undefined> {
    let directory: FileSystemDirectoryHandle | undefined = await navigator.storage.getDirectory();
    for (const folder of [ROOT, ...folders]) {
      directory = await directory?.getDirectoryHandle(folder, { create }).catch(ignoreMissing);
    }
    return directory;
  }
}

function split(path: string): { folders: string[]; file: string } {
  const segments = path.split("/").map(encodeURIComponent);
  const file = segments.pop() ?? "";
  return { folders: segments, file };
}

function ignoreMissing(error: unknown): undefined {
  if (error instanceof DOMException && error.name === "NotFoundError") {
    return undefined;
  }
  throw error;
}

/** A {@link FileStore} for one session, where nothing better exists. */
export class MemoryFiles implements FileStore {
  readonly #files = new Map<string, Uint8Array<ArrayBuffer>>();

  async read(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    return this.#files.get(path);
  }

  async write(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.#files.set(path, bytes);
  }

  async remove(path: string): Promise<void> {
    this.#files.delete(path);
  }
}

const DATABASE = "lenslet";
const OBJECTS = "files";

/** A {@link FileStore} in IndexedDB, for browsers that lack the private file system. */
export class DatabaseFiles implements FileStore {
  #opened: Promise<IDBDatabase> | undefined;

  async read(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
    const found: unknown = await this.#request("readonly", (store) => store.get(path));
    return found instanceof Uint8Array ? new Uint8Array(found) : undefined;
  }

  async write(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.#request("readwrite", (store) => store.put(bytes, path));
  }

  async remove(path: string): Promise<void> {
    await this.#request("readwrite", (store) => store.delete(path));
  }

  #open(): Promise<IDBDatabase> {
    this.#opened ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(OBJECTS);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    return this.#opened;
  }

  async #request<T>(
    mode: IDBTransactionMode,
    act: (store: IDBObjectStore) => IDBRequest<T>,
  ): Promise<T> {
    const database = await this.#open();
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(OBJECTS, mode);
      const request = act(transaction.objectStore(OBJECTS));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
      transaction.onerror = () => reject(transaction.error);
    });
  }
}

/** The best store that works here: it is tried, because some private modes offer one that always fails. */
export async function openStore(): Promise<FileStore> {
  const candidates: (() => FileStore)[] = [];
  if (typeof globalThis.navigator?.storage?.getDirectory === "function") {
    candidates.push(() => new PrivateFiles());
  }
  if (typeof indexedDB === "object") {
    candidates.push(() => new DatabaseFiles());
  }
  for (const make of candidates) {
    try {
      const store = make();
      await store.write("probe", new Uint8Array([1]));
      return store;
    } catch {
      // The next one may work.
    }
  }
  return new MemoryFiles();
}
