/**
 * The page's end of the worker: calls become promises.
 */

import { abortError, fromWire, LoadError, RunError, throwIfAborted } from "./errors.js";
import type { LoadProgress } from "./progress.js";
import type { CallName, Calls, FromWorker, ToWorker } from "./protocol.js";

/** The part of `Worker` that the client uses, so that tests can stand in for one. */
export interface WorkerLike {
  postMessage(message: ToWorker, transfer: Transferable[]): void;
  terminate(): void;
  addEventListener(type: "message", listener: (event: MessageEvent<FromWorker>) => void): void;
  addEventListener(type: "error" | "messageerror", listener: (event: Event) => void): void;
}

/** What may accompany a call. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  transfer?: Transferable[];
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

interface Pending {
  resolve(result: unknown): void;
  reject(error: unknown): void;
  onProgress: ((progress: LoadProgress) => void) | undefined;
}

/** Sends requests to one worker and settles their promises. */
export class WorkerClient {
  readonly #worker: WorkerLike;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #gone: Error | undefined;

  constructor(worker: WorkerLike) {
    this.#worker = worker;
    worker.addEventListener("message", (event) => this.#receive(event.data));
    worker.addEventListener("error", (event) => {
      const reason = "message" in event && event.message ? `: ${event.message}` : "";
      this.#fail(new LoadError("worker", `Lenslet's worker could not run${reason}`));
    });
    worker.addEventListener("messageerror", () => {
      this.#fail(new RunError("worker", "a message of Lenslet's worker could not be read"));
    });
  }

  /** Calls the worker. Cancelling rejects at once; the worker stops at the next picture. */
  call<Name extends CallName>(
    call: Name,
    args: Calls[Name]["args"],
    { signal, transfer = [], onProgress }: CallOptions = {},
  ): Promise<Calls[Name]["result"]> {
    return new Promise((resolve, reject) => {
      throwIfAborted(signal);
      if (this.#gone) {
        throw this.#gone;
      }
      const id = this.#nextId++;
      const abort = (): void => {
        if (this.#pending.delete(id)) {
          this.#worker.postMessage({ cancel: id }, []);
          reject(abortError());
        }
      };
      const settled = (): void => signal?.removeEventListener("abort", abort);
      this.#pending.set(id, {
        resolve: (result) => {
          settled();
          // The worker answers every call with the type that `Calls` states for it.
          resolve(result as Calls[Name]["result"]);
        },
        reject: (error) => {
          settled();
          reject(error);
        },
        onProgress,
      });
      signal?.addEventListener("abort", abort, { once: true });
      this.#worker.postMessage({ id, call, args } as ToWorker, transfer);
    });
  }

  /** Ends the worker. Whatever is under way is rejected. */
  terminate(error: Error): void {
    this.#fail(error);
    this.#worker.terminate();
  }

  #receive(message: FromWorker): void {
    const pending = this.#pending.get(message.id);
    if (!pending) {
      return; // The answer to a cancelled call.
    }
    if ("progress" in message) {
      pending.onProgress?.(message.progress);
      return;
    }
    this.#pending.delete(message.id);
    if ("error" in message) {
      pending.reject(fromWire(message.error));
    } else {
      pending.resolve(message.result);
    }
  }

  #fail(error: Error): void {
    this.#gone ??= error;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of pending) {
      call.reject(this.#gone);
    }
  }
}
