/**
 * How long a worker computes. It does one thing at a time, so a call's own time begins where the one before it ended.
 */

import type { Parts, Work } from "./policy.js";
import { countOf, type ModelTimes } from "./times.js";

/** Times the calls to one worker. */
export class Meter {
  readonly #times: ModelTimes | undefined;
  #free = 0;

  constructor(times: ModelTimes | undefined) {
    this.#times = times;
  }

  /** Runs what is nothing but such parts, and notes what it took. */
  async run<T>(parts: Parts, work: () => Promise<T>): Promise<T> {
    const [value, ms] = await this.time(work);
    for (const kind of Object.keys(parts) as Work[]) {
      this.#times?.observeLocal(kind, ms, countOf(parts));
    }
    return value;
  }

  /** Runs something, and says how long the worker took for it; 0 where nobody wants to know. */
  async time<T>(work: () => Promise<T>): Promise<[T, number]> {
    const asked = this.#now();
    const value = await work();
    const ended = this.#now();
    const ms = ended - Math.max(asked, this.#free);
    this.#free = ended;
    return [value, ms];
  }

  #now(): number {
    return this.#times?.now() ?? 0;
  }
}
