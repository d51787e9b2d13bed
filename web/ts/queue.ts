/**
 * One model call at a time: a session owns one set of buffers.
 */

import { throwIfAborted } from "./errors.js";

/** Runs tasks one after the other, urgent ones (a search) before patient ones (indexing). */
export class TaskQueue {
  readonly #urgent: (() => Promise<void>)[] = [];
  readonly #patient: (() => Promise<void>)[] = [];
  #running = false;

  /** Runs `task` when its turn comes; not at all if `signal` is cancelled before that. */
  run<T>(
    task: () => Promise<T>,
    { signal, urgent = false }: { signal?: AbortSignal | undefined; urgent?: boolean } = {},
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const lane = urgent ? this.#urgent : this.#patient;
      lane.push(async () => {
        try {
          throwIfAborted(signal);
          resolve(await task());
        } catch (error) {
          reject(error);
        }
      });
      void this.#drain();
    });
  }

  async #drain(): Promise<void> {
    if (this.#running) {
      return;
    }
    this.#running = true;
    for (let next = this.#next(); next; next = this.#next()) {
      await next();
      await nextTask();
    }
    this.#running = false;
  }

  #next(): (() => Promise<void>) | undefined {
    return this.#urgent.shift() ?? this.#patient.shift();
  }
}

/**
 * Lets waiting messages in, a cancellation or an urgent request among them. Promises alone would not: a WASM
 * run never leaves the current task.
 */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}
