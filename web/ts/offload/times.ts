/**
 * What work takes, here and on the server, by what was measured.
 */

import type { Parts, Work } from "./policy.js";

/** Milliseconds for some kinds of work. */
export type WorkMs = Readonly<Partial<Record<Work, number>>>;

/** What one call to the server took. */
export interface ServerCall {
  parts: Parts;
  bytes: number;
  ms: number;
  /** How much of it the server spent computing, where it says so. */
  computeMs?: number | undefined;
}

/** The share of a new measurement in a mean. */
const SHARE = 0.3;

/** Old bad news lose half of their weight in this time, so that what was slow once is tried again. */
const HALF_LIFE_MS = 60_000;

/** Calls that send less than this say how long the way is; those that send more, how wide. */
const SMALL_BYTES = 16_384;

/** Until something was sent. */
const FIRST_BYTES_PER_MS = 1000;

/** Tokens of a text, until one was written. */
const FIRST_LENGTH = 16;

/** A mean of what was measured, which drifts back to the best that was seen while nothing new is. */
export class Estimate {
  #mean: number | undefined;
  #best = Number.POSITIVE_INFINITY;
  #at = 0;
  #told = false;

  /** A guess to begin with, or to begin `anew` with; the first measurement takes its place. */
  tell(value: number, now: number, anew = false): void {
    if (anew || this.#mean === undefined) {
      this.#mean = value;
      this.#best = value;
      this.#at = now;
      this.#told = true;
    }
  }

  observe(value: number, now: number): void {
    const before = this.#told ? undefined : this.value(now);
    this.#mean = before === undefined ? value : before + SHARE * (value - before);
    this.#best = this.#told ? value : Math.min(this.#best, value);
    this.#told = false;
    this.#at = now;
  }

  /** What is expected now, if anything is known. */
  value(now: number): number | undefined {
    if (this.#mean === undefined) {
      return undefined;
    }
    const weight = 0.5 ** (Math.max(0, now - this.#at) / HALF_LIFE_MS);
    return this.#best + (this.#mean - this.#best) * weight;
  }
}

/** One estimate for each kind of work. */
class Estimates {
  readonly #of: Record<Work, Estimate> = {
    text: new Estimate(),
    image: new Estimate(),
    prompt: new Estimate(),
    token: new Estimate(),
  };

  tell(values: WorkMs, now: number, anew: boolean): void {
    for (const [work, value] of entries(values)) {
      this.#of[work].tell(value, now, anew);
    }
  }

  observe(work: Work, value: number, now: number): void {
    this.#of[work].observe(value, now);
  }

  /** The time for all parts; nothing if one of them is unknown. */
  sum(parts: Parts, now: number): number | undefined {
    let total = 0;
    for (const [work, count] of entries(parts)) {
      const each = this.#of[work].value(now);
      if (each === undefined) {
        return undefined;
      }
      total += each * count;
    }
    return total;
  }

  /** The time for those parts that are known. */
  known(parts: Parts, now: number): number {
    return entries(parts).reduce(
      (total, [work, count]) => total + (this.#of[work].value(now) ?? 0) * count,
      0,
    );
  }
}

const entries = (values: WorkMs): [Work, number][] => Object.entries(values) as [Work, number][];

/** How much of everything a call asks for. */
export const countOf = (parts: Parts): number =>
  entries(parts).reduce((sum, [, count]) => sum + count, 0);

/** The way to the server, which all models share. */
export class Way {
  readonly #roundTrip = new Estimate();
  readonly #msPerByte = new Estimate();

  /** How long a request of so many bytes is on its way, and its answer. */
  ms(bytes: number, now: number): number {
    const perByte = this.#msPerByte.value(now) ?? 1 / FIRST_BYTES_PER_MS;
    return (this.#roundTrip.value(now) ?? 0) + bytes * perByte;
  }

  /** One was on its way for so long. */
  observe(ms: number, bytes: number, now: number): void {
    if (bytes < SMALL_BYTES) {
      this.#roundTrip.observe(ms, now);
    } else {
      const sending = Math.max(0, ms - (this.#roundTrip.value(now) ?? 0));
      this.#msPerByte.observe(sending / bytes, now);
    }
  }
}

/** What one model's work takes. */
export class ModelTimes {
  readonly #now: () => number;
  readonly #way: Way;
  readonly #local = new Estimates();
  readonly #server = new Estimates();
  readonly #length = new Estimate();

  constructor(way: Way, now: () => number) {
    this.#way = way;
    this.#now = now;
  }

  /** The clock by which work is timed, in milliseconds. */
  now(): number {
    return this.#now();
  }

  /** How long it is going to take here; nothing if no such work was measured yet. */
  localMs(parts: Parts): number | undefined {
    return this.#local.sum(parts, this.#now());
  }

  /** How long it is going to take there. What is not known yet counts as nothing: it has to be tried to be known. */
  serverMs(parts: Parts, bytes: number): number {
    const now = this.#now();
    return this.#way.ms(bytes, now) + this.#server.known(parts, now);
  }

  /** What a run here is believed to take, until the next is measured; `anew`, whatever was measured before. */
  tellLocal(ms: WorkMs, anew = false): void {
    this.#local.tell(ms, this.#now(), anew);
  }

  /** A run here took this long. */
  observeLocal(work: Work, ms: number, count = 1): void {
    this.#local.observe(work, ms / Math.max(1, count), this.#now());
  }

  /** A call to the server took this long. */
  observeServer({ parts, bytes, ms, computeMs }: ServerCall): void {
    const now = this.#now();
    const compute = computeMs ?? Math.max(0, ms - this.#way.ms(bytes, now));
    if (computeMs !== undefined) {
      this.#way.observe(Math.max(0, ms - computeMs), bytes, now);
    }
    const count = Math.max(1, countOf(parts));
    for (const [work] of entries(parts)) {
      this.#server.observe(work, compute / count, now);
    }
  }

  /** The server took this long for work that nothing had to be sent for. */
  observeServerWork(work: Work, ms: number, count = 1): void {
    this.#server.observe(work, ms / Math.max(1, count), this.#now());
  }

  /** A text had so many tokens. */
  observeLength(tokens: number): void {
    this.#length.observe(tokens, this.#now());
  }

  /** What a text asks for that may have so many tokens. */
  textOf(most: number | undefined): Parts {
    const usual = this.#length.value(this.#now()) ?? FIRST_LENGTH;
    return { prompt: 1, token: Math.min(usual, most ?? Number.POSITIVE_INFINITY) };
  }
}
