/**
 * How long a worker computes. It does one thing at a time, so a call's own time begins where the one before it ended.
 */

import type { Parts, Policy, Work } from "./policy.js";

/** Times the calls to one worker. */
export class Meter {
  readonly #policy: Policy | undefined;
  readonly #now: () => number;
  #free = 0;

  constructor(policy: Policy | undefined, now: () => number = () => performance.now()) {
    this.#policy = policy;
    this.#now = now;
  }

  /** Runs what is nothing but such parts, and tells the policy what it took. */
  async run<T>(parts: Parts, work: () => Promise<T>): Promise<T> {
    const [value, ms] = await this.time(work);
    const counts = Object.entries(parts) as [Work, number][];
    const total = counts.reduce((sum, [, count]) => sum + count, 0);
    for (const [kind] of counts) {
      this.#policy?.observeLocal(kind, ms, total);
    }
    return value;
  }

  /** Runs something, and says how long the worker took for it. */
  async time<T>(work: () => Promise<T>): Promise<[T, number]> {
    const asked = this.#now();
    const value = await work();
    const ended = this.#now();
    const ms = ended - Math.max(asked, this.#free);
    this.#free = ended;
    return [value, ms];
  }
}
