/**
 * Where a call runs: here, or on the server. Nothing in this file talks to anybody; it is told what was measured and what
 * is at hand, and says what follows.
 */

/** Who gave a result. */
export type AnsweredBy = "local" | "server";

/**
 * Why it was this one. `"faster"` and `"quality_full"` are choices; `"no_server"` and `"local_only"` say that there was none;
 * `"memory"` and `"local_failed"` that the model could not be loaded here; all others what kept the server from answering.
 */
export type Reason =
  | "faster"
  | "quality_full"
  | "no_server"
  | "local_only"
  | "memory"
  | "local_failed"
  | "offline"
  | "other_model"
  | "unsupported"
  | "server_unreachable"
  | "server_timeout"
  | "server_overloaded"
  | "server_unavailable"
  | "server_refused"
  | "server_no_model"
  | "server_rejected"
  | "server_failed";

/** What a result says of its origin. */
export interface Answered {
  answeredBy: AnsweredBy;
  reason: Reason;
}

/** Whether anything may leave this device. */
export type Privacy = "local-only" | "allow";

/** `"full"` prefers the server's model, which may be larger, however fast the local one is. */
export type Quality = "auto" | "full";

/** What takes time: a text or a picture to embed, a prompt to read, a token to write. */
export type Work = "text" | "image" | "prompt" | "token";

/** How much of each a call asks for. */
export type Parts = Readonly<Partial<Record<Work, number>>>;

/** Whether the local model can answer, and if not, why. */
export type LocalState = "ready" | "memory" | "local_failed";

/** What a decision is about. */
export interface Question {
  parts: Parts;
  /** What would have to be sent. */
  bytes: number;
  local: LocalState;
  /** Whether the server can answer, and if not, why. */
  server: "ready" | Reason;
}

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

/** The other side has to be better by so much before work moves there: two that are alike must not flap. */
const MARGIN = 1.25;
const MARGIN_MS = 5;

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

/** Decides, call by call. */
export class Policy {
  privacy: Privacy;
  quality: Quality;
  readonly #now: () => number;
  readonly #local = new Estimates();
  readonly #server = new Estimates();
  readonly #roundTrip = new Estimate();
  readonly #msPerByte = new Estimate();
  readonly #length = new Estimate();
  /** Where work of a kind went last. */
  readonly #last = new Map<string, AnsweredBy>();

  constructor(privacy: Privacy, quality: Quality, now: () => number) {
    this.privacy = privacy;
    this.quality = quality;
    this.#now = now;
  }

  /** Who is to answer. If that is the local model although it cannot, nobody may. */
  decide({ parts, bytes, local, server }: Question): Answered {
    if (this.privacy !== "allow") {
      return { answeredBy: "local", reason: "local_only" };
    }
    if (server !== "ready") {
      return { answeredBy: "local", reason: server };
    }
    if (local !== "ready") {
      return { answeredBy: "server", reason: local };
    }
    if (this.quality === "full") {
      return { answeredBy: "server", reason: "quality_full" };
    }
    const kind = Object.keys(parts).sort().join();
    const answeredBy = this.#faster(parts, bytes, this.#last.get(kind) ?? "local");
    this.#last.set(kind, answeredBy);
    return { answeredBy, reason: "faster" };
  }

  #faster(parts: Parts, bytes: number, current: AnsweredBy): AnsweredBy {
    const here = this.localMs(parts);
    if (here === undefined) {
      return "local"; // The first run shows how long it takes, and sends nothing.
    }
    const there = this.serverMs(parts, bytes);
    if (current === "local") {
      return there * MARGIN + MARGIN_MS < here ? "server" : "local";
    }
    return here * MARGIN + MARGIN_MS < there ? "local" : "server";
  }

  /** How long it is going to take here; nothing if no such work was measured yet. */
  localMs(parts: Parts): number | undefined {
    return this.#local.sum(parts, this.#now());
  }

  /** How long it is going to take there. What is not known yet counts as nothing: it has to be tried to be known. */
  serverMs(parts: Parts, bytes: number): number {
    const now = this.#now();
    return this.#wayMs(bytes, now) + this.#server.known(parts, now);
  }

  #wayMs(bytes: number, now: number): number {
    const perByte = this.#msPerByte.value(now) ?? 1 / FIRST_BYTES_PER_MS;
    return (this.#roundTrip.value(now) ?? 0) + bytes * perByte;
  }

  /** What a run here is believed to take, until the next is measured; `anew`, whatever was measured before. */
  tellLocal(ms: Readonly<Partial<Record<Work, number>>>, anew = false): void {
    this.#local.tell(ms, this.#now(), anew);
  }

  /** A run here took this long. */
  observeLocal(work: Work, ms: number, count = 1): void {
    this.#local.observe(work, ms / Math.max(1, count), this.#now());
  }

  /** An answer without work: how far the server is. */
  observeRoundTrip(ms: number): void {
    this.#roundTrip.observe(ms, this.#now());
  }

  /** A call to the server took this long. */
  observeServer({ parts, bytes, ms, computeMs }: ServerCall): void {
    const now = this.#now();
    const compute = computeMs ?? Math.max(0, ms - this.#wayMs(bytes, now));
    if (computeMs !== undefined) {
      const way = Math.max(0, ms - computeMs);
      if (bytes < SMALL_BYTES) {
        this.#roundTrip.observe(way, now);
      } else {
        const sending = Math.max(0, way - (this.#roundTrip.value(now) ?? 0));
        this.#msPerByte.observe(sending / bytes, now);
      }
    }
    const counts = Object.entries(parts) as [Work, number][];
    const total = counts.reduce((sum, [, count]) => sum + count, 0);
    for (const [work] of counts) {
      this.#server.observe(work, compute / Math.max(1, total), now);
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

/** One estimate for each kind of work. */
class Estimates {
  readonly #of: Record<Work, Estimate> = {
    text: new Estimate(),
    image: new Estimate(),
    prompt: new Estimate(),
    token: new Estimate(),
  };

  tell(values: Readonly<Partial<Record<Work, number>>>, now: number, anew: boolean): void {
    for (const [work, value] of Object.entries(values) as [Work, number][]) {
      this.#of[work].tell(value, now, anew);
    }
  }

  observe(work: Work, value: number, now: number): void {
    this.#of[work].observe(value, now);
  }

  /** The time for all parts; nothing if one of them is unknown. */
  sum(parts: Parts, now: number): number | undefined {
    let total = 0;
    for (const [work, count] of Object.entries(parts) as [Work, number][]) {
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
    return (Object.entries(parts) as [Work, number][]).reduce(
      (total, [work, count]) => total + (this.#of[work].value(now) ?? 0) * count,
      0,
    );
  }
}

const FIRST_PAUSE_MS = 5_000;
const LONGEST_PAUSE_MS = 300_000;

/** Leaves a server alone for a while after it failed, longer each time. */
export class BackOff {
  #until = 0;
  #failures = 0;
  #reason: Reason = "server_failed";

  /** Why the server is not asked now, if it is not. */
  reason(now: number): Reason | undefined {
    return now < this.#until ? this.#reason : undefined;
  }

  /** It failed. `retryAfterMs` is what it said itself; it is kept to, and never shortened. */
  failed(reason: Reason, now: number, retryAfterMs = 0): void {
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LONGEST_PAUSE_MS);
    this.#failures += 1;
    this.#reason = reason;
    this.#until = now + Math.max(pause, retryAfterMs);
  }

  /** It answered. */
  succeeded(): void {
    this.#failures = 0;
    this.#until = 0;
  }
}

/** A page should leave most of a device's memory to others. */
const SHARE_OF_MEMORY = 1 / 8;

/**
 * The largest model, in bytes of its files, that is loaded on a device with so many GiB of memory; none where the browser
 * does not say. A model needs about twice its files while it is loaded.
 */
export function largestModel(deviceMemoryGiB: number | undefined): number | undefined {
  return deviceMemoryGiB === undefined
    ? undefined
    : Math.round(deviceMemoryGiB * 2 ** 30 * SHARE_OF_MEMORY);
}
